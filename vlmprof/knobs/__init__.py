"""The knobs: one inference-time control per file, loaded by the name of the file."""
