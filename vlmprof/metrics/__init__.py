"""Metrics as pure functions, one per file."""
