"""A target for the number of vision tokens: every image gets the largest budget that stays within the target.

Budgets (crops, pixels, sizes) are discrete, and the token count of each depends on the shape of the image. So the count
that is achieved differs from image to image and is at most the target. Plots show the mean that was achieved (column
``vision_tokens``), never the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenBudget, TokenCounts

SQUARE_PX = 512
"""Side of the square image that the smallest legal target is computed for. The minimum of an elongated image may be
larger; the effect of the trial is then ``mismatch``."""


@final
class VisionTokens(AbstractKnob):
    """At most this many vision tokens for each image."""

    needs = TokenBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_integer(value, low=1, name="vision_tokens")
        fewest = anatomy.count_tokens(SQUARE_PX, SQUARE_PX, anatomy.min_crops).vision_tokens
        if value < fewest:
            raise KnobValueError(
                f"vision_tokens: expected at least {fewest}, got {value}: with its smallest budget"
                f" ({anatomy.min_crops} {anatomy.vision_unit}) {anatomy.architecture} gives a square image {fewest}"
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

    def effect(self, value: int, anatomy: Anatomy, observed: Observation) -> Effect:
        if observed.vision_tokens_max > value:
            return "mismatch"
        return "effective" if observed.capped_share > 0 else "saturated"


KNOB = VisionTokens()
