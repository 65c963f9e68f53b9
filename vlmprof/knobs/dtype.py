"""The precision of weights and arithmetic. The model is reloaded for each value.

Half the bits means half the bytes that a decode step reads, and different rounding: near-ties between experts or
between tokens can flip. In half precision the batch size alone can flip them, because another batch shape sums in
another order; the audit of a trial counts these flips. The checkpoint's own precision does not matter, since weights
are cast while they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import load_effect, require_one_of
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, Precision

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
"""Legal values and their width in bits; the first is the default."""


@final
class Dtype(AbstractKnob):
    """The type of weights and activations."""

    needs = Precision
    load_argument = "dtype"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_one_of("dtype", value, list(BITS), anatomy.architecture)

    def axis(self, value: Any) -> float:
        return float(BITS[value])

    @contextmanager
    def applied(self, model: Precision, value: str) -> Iterator[None]:
        yield  # set when the model was loaded; ``effect`` reads back whether that worked

    def effect(self, value: str, anatomy: Anatomy, observed: Observation) -> Effect:
        return load_effect("dtype", value, next(iter(BITS)), observed)


KNOB = Dtype()
