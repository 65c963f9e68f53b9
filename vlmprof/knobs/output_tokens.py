"""The length of an answer: a cap while scoring, the exact length while timing.

A cap alone would time whatever the model happens to say, so a model that answers shorter would look faster. Timing
therefore runs to exactly this length with end-of-sequence ignored, which leaves the tokens before it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, OutputBudget


@final
class OutputTokens(AbstractKnob):
    """Answers of at most this many tokens, end-of-sequence included."""

    needs = OutputBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_whole(value, low=1, of="output_tokens")

    @contextmanager
    def applied(self, model: OutputBudget, value: int) -> Iterator[None]:
        before = model.output_tokens
        model.output_tokens = value
        try:
            yield
        finally:
            model.output_tokens = before

    def effect(self, value: int, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.tokens_max > value:
            return "mismatch"
        # With nothing scored there is no answer to cut; the timed length is this value all the same.
        return "effective" if seen.cut_share > 0 or not seen.tokens_max else "saturated"


KNOB = OutputTokens()
