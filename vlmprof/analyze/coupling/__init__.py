"""How knobs act together, and whether a front holds elsewhere."""
