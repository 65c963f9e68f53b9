"""The attention kernel of the language model and of the vision encoder: the model is loaded anew for each value.

``eager`` multiplies the matrices one by one and keeps the scores of every pair of tokens; ``sdpa`` is torch's fused
kernel, which chooses among several by shape and mask; ``flash_attention_2`` and ``flex_attention`` need a GPU. All
compute the same function and round differently, so a kernel is a matter of time and memory, and in half precision also
of near-ties between two answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import check_word, judged
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, AttentionKernel

KERNELS = ("flex_attention", "flash_attention_2", "eager", "sdpa")
"""In the order they are drawn in; there is no scale between them."""


@final
class Attention(AbstractKnob):
    """Every attention of the model by this kernel."""

    needs = AttentionKernel
    load_argument = "attention"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        check_word("attention", value, anatomy.attention_kernels, f"the attention of {anatomy.architecture}")

    def axis(self, value: Any) -> float:
        return float(KERNELS.index(value))

    @contextmanager
    def applied(self, model: AttentionKernel, value: str) -> Iterator[None]:
        yield  # the model was loaded so; ``effect`` reads back whether it was

    def effect(self, value: str, anatomy: Anatomy, seen: Observation) -> Effect:
        return judged("attention", value, anatomy.attention_kernels[0], seen)


KNOB = Attention()
