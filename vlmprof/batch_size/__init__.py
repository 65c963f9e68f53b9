"""Which batch size fits which configuration. Imports neither Ray nor torch; only ``cache`` reads and writes files."""
