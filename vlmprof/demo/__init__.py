"""The demo model: a tiny MolmoE trained from scratch on `shapes_qa`.

`weights/` holds the output of `save_pretrained`, `training/` the training code, and `MODEL_CARD.md` the measured
quality and the limits.
"""
