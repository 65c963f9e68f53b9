"""Where the rows and pictures of a task come from: files, index, decoding, cache."""
