"""How the demo model was trained: run it again, or train a variant."""
