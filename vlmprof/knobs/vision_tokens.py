"""A target for the number of vision tokens: every image gets the largest budget that stays within it.

The budgets of a model are a staircase (crops, pixels, sizes), and where its steps are depends on the shape of the
image. So the count that is achieved differs from image to image and is at most the target; what is plotted is the
mean that was achieved (``vision_tokens``), never the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenBudget, TokenCounts

SQUARE_PX = 512
"""The minimum is judged by a square image of this size; an odd shape may have a larger one, and then the trial says
mismatch."""


@final
class VisionTokens(AbstractKnob):
    """At most this many vision tokens for each image."""

    needs = TokenBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_whole(value, low=1, of="vision_tokens")
        fewest = anatomy.count_tokens(SQUARE_PX, SQUARE_PX, anatomy.min_crops).vision_tokens
        if value < fewest:
            raise KnobValueError(
                f"vision_tokens: expected at least {fewest}, got {value}: with its smallest budget"
                f" ({anatomy.min_crops} {anatomy.vision_unit}) {anatomy.architecture} makes {fewest} of a square image"
            )

    def counts(self, value: int, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        return anatomy.within(height, width, value)

    @contextmanager
    def applied(self, model: TokenBudget, value: int) -> Iterator[None]:
        before = model.vision_tokens
        model.vision_tokens = value
        try:
            yield
        finally:
            model.vision_tokens = before

    def effect(self, value: int, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.vision_tokens_max > value:
            return "mismatch"
        return "effective" if seen.capped_share > 0 else "saturated"


KNOB = VisionTokens()
