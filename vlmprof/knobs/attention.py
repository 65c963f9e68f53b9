"""The attention kernel of the language model and of the vision encoder. The model is reloaded for each value.

``eager`` computes two matrix products and stores the scores of every pair of tokens; ``sdpa`` is torch's fused
attention, which picks one of several kernels by shape and mask; ``flash_attention_2`` and ``flex_attention`` need a
GPU. All compute the same function with different rounding, so the choice affects time and memory, and in half precision
also near-ties between two answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.knobs._loading import load_effect, require_one_of
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, AttentionKernel

KERNELS = ("flex_attention", "flash_attention_2", "eager", "sdpa")
"""In plotting order; the positions are not a scale."""


@final
class Attention(AbstractKnob):
    """The kernel of every attention module of the model."""

    needs = AttentionKernel
    load_argument = "attention"

    def check(self, value: Any, anatomy: Anatomy) -> None:
        require_one_of("attention", value, anatomy.attention_kernels, anatomy.architecture)

    def axis(self, value: Any) -> float:
        return float(KERNELS.index(value))

    @contextmanager
    def applied(self, model: AttentionKernel, value: str) -> Iterator[None]:
        yield  # set when the model was loaded; ``effect`` reads back whether that worked

    def effect(self, value: str, anatomy: Anatomy, observed: Observation) -> Effect:
        return load_effect("attention", value, anatomy.attention_kernels[0], observed)


KNOB = Attention()
