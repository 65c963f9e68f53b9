"""The demo model: a tiny MolmoE trained from scratch on `shapes_qa`, its recipe and its measured quality.

`weights/` holds what `save_pretrained` wrote; `MODEL_CARD.md` says what was measured and what is weak.
"""
