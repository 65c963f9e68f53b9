"""Which batch fits which configuration. Pure: no ray, no torch, no clock but what is passed; files in journal alone."""
