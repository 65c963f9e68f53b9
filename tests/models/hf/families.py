"""A tiny family as tests hold it, and what it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.models.hf.recipes import RECIPES, Recipe
from vlmprof import registry
from vlmprof.models._hf.runtime import LoadedVlm
from vlmprof.models.family import Checkpoint
from vlmprof.records import Picture, Prompt
from vlmprof.surfaces import Anatomy

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
ASKED = [
    ("what colour is the cat", 90, 60),
    ("how many dog are there left of the tree", 64, 64),
    ("red", 50, 110),
    ("is there a cat", 120, 80),
]
"""Questions of several lengths about pictures of several shapes: a batch of them is padded."""


class Family:
    """A tiny checkpoint of one family, its anatomy and its model."""

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint) -> None:
        family = registry.load("models", "transformers_vlm")
        self.recipe, self.checkpoint = recipe, checkpoint
        self.anatomy: Anatomy = family.describe(checkpoint)
        self.model: LoadedVlm = family.load(checkpoint, "cpu")


def ask(text: str, width: int, height: int, seed: int = 0) -> Prompt:
    """A question about noise."""
    pixels = np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype=np.uint8)
    picture: Any = Image.fromarray(pixels)
    return Prompt(text=text, picture=Picture(width=width, height=height, load=lambda: picture))
