"""One model family a leaf, found by its name."""
