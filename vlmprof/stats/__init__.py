"""Statistics of scores and of repeated timings: pure functions."""
