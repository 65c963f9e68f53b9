"""One trial: resolve its names, size its batches, run it. No ray, no files."""
