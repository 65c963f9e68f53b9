"""One search strategy a file, found by its name."""
