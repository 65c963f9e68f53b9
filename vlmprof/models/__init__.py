"""Model families: one file or package per family, loaded by its name."""
