"""An upper limit on the crops of an image, not an exact number.

An image of 640 x 480 is cut into 2 x 3 crops under every cap from 6 up; a higher cap changes nothing, and the effect of
the trial is ``saturated``. Plots show the number of vision tokens that was achieved, never one computed from the cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenCounts, VisionBudget

BEYOND_TRAINING = 4
"""A cap above this many times the trained one is refused as a typing error."""


@final
class MaxCrops(AbstractKnob):
    """At most this many crops of the high-resolution view; the global view is not counted."""

    needs = VisionBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_integer(value, low=anatomy.min_crops, high=BEYOND_TRAINING * anatomy.max_crops, name="max_crops")

    def counts(self, value: int, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        return anatomy.count_tokens(height, width, value)

    @contextmanager
    def applied(self, model: VisionBudget, value: int) -> Iterator[None]:
        before = model.max_crops
        model.max_crops = value
        try:
            yield
        finally:
            model.max_crops = before

    def effect(self, value: int, anatomy: Anatomy, observed: Observation) -> Effect:
        if observed.crops_max > value + 1:
            return "mismatch"
        if observed.capped_share == 0:
            return "saturated"
        return "no-op" if value == anatomy.max_crops else "effective"


KNOB = MaxCrops()
