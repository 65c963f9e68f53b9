"""The cap on an image's pixels, for models that keep an image's shape and cut nothing (Qwen-VL and its kin).

A cap, not a setting: an image that is smaller already is resized to whole patches and nothing more, and the trial says
``saturated``. A vision token stands for a square of pixels (28 x 28 in Qwen2.5-VL, 32 x 32 in Qwen3-VL), so caps that
differ by less than one square are the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, PixelBudget, TokenCounts

BEYOND_TRAINING = 4
"""A cap of more than this many times the trained one is a slip of the keyboard, not an experiment."""


@final
class MaxPixels(AbstractKnob):
    """Each image is resized to at most this many pixels."""

    needs = PixelBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_whole(value, low=anatomy.min_crops, high=BEYOND_TRAINING * anatomy.max_crops, of="max_pixels")

    def counts(self, value: int, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        return anatomy.count_tokens(height, width, value)

    @contextmanager
    def applied(self, model: PixelBudget, value: int) -> Iterator[None]:
        before = model.max_pixels
        model.max_pixels = value
        try:
            yield
        finally:
            model.max_pixels = before

    def effect(self, value: int, anatomy: Anatomy, seen: Observation) -> Effect:
        # min_crops is, in this unit, the pixels behind one vision token.
        if seen.vision_tokens_max > max(1, value // anatomy.min_crops):
            return "mismatch"
        if value == anatomy.max_crops:
            return "no-op"
        return "effective" if seen.capped_share > 0 else "saturated"


KNOB = MaxPixels()
