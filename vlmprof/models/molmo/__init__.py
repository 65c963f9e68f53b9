"""The Molmo v1 family (MolmoE and the dense models), native to transformers 5: no remote code."""
