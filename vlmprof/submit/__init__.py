"""Sweeps as jobs on a Ray cluster: submit, follow, stop, fetch."""
