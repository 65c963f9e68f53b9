"""The training code of the demo model, to reproduce it or to train a variant."""
