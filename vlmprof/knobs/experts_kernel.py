"""How the chosen experts are computed. The model is reloaded for each value.

``grouped_mm`` sorts tokens by expert and multiplies group by group; ``batched_mm`` copies the chosen experts' weights
for every token and multiplies all at once; ``eager`` is a loop over experts. All compute the same function with
different rounding. The chosen kernel runs in both prefill and decode, whereas ``generate`` of transformers would switch
kernels between the two on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import load_effect, require_one_of
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, ExpertsKernel

KERNELS = ("batched_mm", "eager", "grouped_mm")
"""In plotting order; the positions are not a scale."""


@final
class ExpertsKernelKnob(AbstractKnob):
    """The kernel of every mixture-of-experts block."""

    needs = ExpertsKernel
    load_argument = "experts_kernel"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_one_of("experts_kernel", value, anatomy.experts_kernels, anatomy.architecture)

    def axis(self, value: Any) -> float:
        return float(KERNELS.index(value))

    @contextmanager
    def applied(self, model: ExpertsKernel, value: str) -> Iterator[None]:
        yield  # set when the model was loaded; ``effect`` reads back whether that worked

    def effect(self, value: str, anatomy: Anatomy, observed: Observation) -> Effect:
        return load_effect("experts_kernel", value, anatomy.experts_kernels[0], observed)


KNOB = ExpertsKernelKnob()
