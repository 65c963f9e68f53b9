"""One file for each search strategy; the file's name is the strategy's name in a job."""
