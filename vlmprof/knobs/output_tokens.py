"""The length of an answer: an upper limit while scoring, the exact length while timing.

With a limit alone, the timed length would be that of the model's answer, and a model with shorter answers would look
faster. Timing therefore generates exactly this many tokens and ignores end-of-sequence, which does not change the
tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, OutputBudget


@final
class OutputTokens(AbstractKnob):
    """At most this many tokens per answer, end-of-sequence included."""

    needs = OutputBudget

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_integer(value, low=1, name="output_tokens")

    @contextmanager
    def applied(self, model: OutputBudget, value: int) -> Iterator[None]:
        before = model.output_tokens
        model.output_tokens = value
        try:
            yield
        finally:
            model.output_tokens = before

    def effect(self, value: int, anatomy: Anatomy, observed: Observation) -> Effect:
        if observed.tokens_max > value:
            return "mismatch"
        # tokens_max is 0 where nothing was scored: no answer could be cut, and the timed length is this value.
        return "effective" if observed.cut_share > 0 or not observed.tokens_max else "saturated"


KNOB = OutputTokens()
