"""Which configuration to take: the best under a condition, and one for each budget."""
