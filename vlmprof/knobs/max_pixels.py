"""An upper limit on an image's pixels, for models that keep the aspect ratio and cut no crops (Qwen-VL and similar).

It is a limit, not an exact number: an image that is already smaller is only rounded to whole patches, and the effect of
the trial is ``saturated``. A vision token covers a square of pixels (28 x 28 in Qwen2.5-VL, 32 x 32 in Qwen3-VL), so
caps that differ by less than one square give the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, PixelBudget, TokenCounts

BEYOND_TRAINING = 4
"""A cap above this many times the trained one is refused as a typing error."""


@final
class MaxPixels(AbstractKnob):
    """Each image is resized to at most this many pixels."""

    needs = PixelBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_integer(value, low=anatomy.min_crops, high=BEYOND_TRAINING * anatomy.max_crops, name="max_pixels")

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

    def effect(self, value: int, anatomy: Anatomy, observed: Observation) -> Effect:
        # The unit is pixels here, so min_crops is the number of pixels per vision token.
        if observed.vision_tokens_max > max(1, value // anatomy.min_crops):
            return "mismatch"
        if value == anatomy.max_crops:
            return "no-op"
        return "effective" if observed.capped_share > 0 else "saturated"


KNOB = MaxPixels()
