"""Experts per token in every mixture-of-experts block.

The routers' weights are not renormalised unless the model does so itself: in OLMoE and MolmoE fewer experts also
shrink the output of the block, which is part of what this knob measures. Editing the configuration after loading
changes nothing: the routers read it once. This sets the routers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, ExpertRouting


@final
class MoeTopK(AbstractKnob):
    """Each token is sent to this many experts, in every block."""

    needs = ExpertRouting

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if anatomy.experts is None:
            raise KnobValueError(f"moe_top_k: {anatomy.architecture} is dense, it routes no experts")
        require_whole(value, low=1, high=anatomy.experts, of="moe_top_k")

    @contextmanager
    def applied(self, model: ExpertRouting, value: int) -> Iterator[None]:
        routers = model.routers
        before = [router.top_k for router in routers]
        try:
            for router in routers:
                router.top_k = value
            yield
        finally:
            for router, top_k in zip(routers, before, strict=True):
                router.top_k = top_k

    def effect(self, value: int, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.experts_per_token != value:
            return "mismatch"
        return "no-op" if value == anatomy.experts_per_token else "effective"


KNOB = MoeTopK()
