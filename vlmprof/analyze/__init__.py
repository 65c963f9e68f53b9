"""Reads the tables; needs neither torch nor ray."""
