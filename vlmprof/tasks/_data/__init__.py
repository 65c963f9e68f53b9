"""Reading the rows and pictures of a task: files, index, decoding, cache, prefetch."""
