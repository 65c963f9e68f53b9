"""Which batch fits which configuration: pure. No ray, no torch, no file but the journal's, no clock but what is passed."""
