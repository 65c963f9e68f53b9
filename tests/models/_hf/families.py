"""A tiny family as tests hold it, and what it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models._hf.recipes import RECIPES, Recipe
from vlmprof import registry
from vlmprof.models._hf.runtime import LoadedVlm
from vlmprof.models.family import Checkpoint
from vlmprof.records import Picture, Prompt
from vlmprof.surfaces import Anatomy

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
ONE_OF_EACH_KIND = {
    "qwen2_5_vl",  # dense; an image keeps its shape and is resized to a budget of pixels
    "qwen3_vl_moe",  # vision features are added in several decoder blocks; experts
    "llava_next_olmoe",  # tiles of the grids that are listed in its configuration; experts, no renormalising
    "idefics3_olmoe",  # rows and columns of crops, with a token of its own for each place
    "ernie4_5_vl_moe",  # text and images are routed apart
}
"""What the default run tests; the other architectures repeat these mechanisms and are tested by ``-m exhaustive``."""
EVERY = [
    pytest.param(name, marks=[] if name in ONE_OF_EACH_KIND else [pytest.mark.exhaustive], id=name) for name in BY_NAME
]
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
