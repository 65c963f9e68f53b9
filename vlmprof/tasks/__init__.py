"""Datasets, one per file; the file name is the key of the task in a job."""
