"""Figures, one a file; the file's name is the name of the plot."""
