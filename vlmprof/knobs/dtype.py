"""The precision of weights and arithmetic: the model is loaded anew for each value.

Half the bits are half the bytes that a decode step reads, and other roundings: near-ties of a router or of two answers
flip, and in half precision the batch size itself can flip them, because another shape of batch is summed in another
order. The audit of a trial counts that. The checkpoint's own precision does not matter: it is cast while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import check_word, judged
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, Precision

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
"""The first is what a job gets that says nothing."""


@final
class Dtype(AbstractKnob):
    """Weights and activations in this type."""

    needs = Precision
    load_argument = "dtype"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        check_word("dtype", value, list(BITS), "the precision")

    def axis(self, value: Any) -> float:
        return float(BITS[value])

    @contextmanager
    def applied(self, model: Precision, value: str) -> Iterator[None]:
        yield  # the model was loaded so; ``effect`` reads back whether it was

    def effect(self, value: str, anatomy: Anatomy, seen: Observation) -> Effect:
        return judged("dtype", value, next(iter(BITS)), seen)


KNOB = Dtype()
