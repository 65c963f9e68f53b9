"""One inference-time control a file, found by its name."""
