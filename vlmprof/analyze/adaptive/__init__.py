"""Choosing a configuration for each sample: what it could gain, and exports for whoever tries."""
