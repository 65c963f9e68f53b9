"""What is kept: the ledger and the tables."""
