"""How the chosen experts are computed: the model is loaded anew for each value.

``grouped_mm`` sorts tokens by expert and multiplies group by group; ``batched_mm`` copies the chosen experts' weights
for every token and multiplies all at once; ``eager`` is a loop over experts. All compute the same function and round
differently. The one that is set runs in prefill and decode alike: the library's own generation would change it between
the two on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import check_word, judged
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, ExpertsKernel

KERNELS = ("batched_mm", "eager", "grouped_mm")
"""In the order they are drawn in; there is no scale between them."""


@final
class ExpertsKernelKnob(AbstractKnob):
    """Every mixture-of-experts block by this kernel."""

    needs = ExpertsKernel
    load_argument = "experts_kernel"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        check_word("experts_kernel", value, anatomy.experts_kernels, f"{anatomy.architecture} with its experts")

    def axis(self, value: Any) -> float:
        return float(KERNELS.index(value))

    @contextmanager
    def applied(self, model: ExpertsKernel, value: str) -> Iterator[None]:
        yield  # the model was loaded so; ``effect`` reads back whether it was

    def effect(self, value: str, anatomy: Anatomy, seen: Observation) -> Effect:
        return judged("experts_kernel", value, anatomy.experts_kernels[0], seen)


KNOB = ExpertsKernelKnob()
