"""The cap on image crops: a cap, not a setting.

An image of 640 x 480 tiles 2 x 3 under every cap from 6 up; raising the cap further changes nothing, and the trial
says ``saturated``. What is plotted is the count of vision tokens that was achieved, never one computed from the cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenCounts, VisionBudget

BEYOND_TRAINING = 4
"""A cap of more than this many times the trained one is a slip of the keyboard, not an experiment."""


@final
class MaxCrops(AbstractKnob):
    """At most this many crops of the high-resolution view; the global view comes on top."""

    needs = VisionBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_whole(value, low=anatomy.min_crops, high=BEYOND_TRAINING * anatomy.max_crops, of="max_crops")

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

    def effect(self, value: int, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.crops_max > value + 1:
            return "mismatch"
        if seen.capped_share == 0:
            return "saturated"
        return "no-op" if value == anatomy.max_crops else "effective"


KNOB = MaxCrops()
