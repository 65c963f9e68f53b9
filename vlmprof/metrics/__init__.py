"""Scores as pure functions, one a file."""
