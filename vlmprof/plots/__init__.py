"""One figure a file, found by its name."""
