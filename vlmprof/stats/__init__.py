"""Statistics of scores and of times in a row: pure functions."""
