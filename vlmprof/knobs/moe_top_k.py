"""Experts per token in every mixture-of-experts block: one number, or a list with one per such block.

The weights of the chosen experts are not renormalised unless the model does so itself: in OLMoE and MolmoE fewer
experts also shrink the output of the block, which is part of what this knob measures. ``{k: n, renormalise: true}``
scales the weights to sum to one; it is a separate value of the knob. The knob sets ``top_k`` on the routers, because
they read the configuration only when they are built.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from statistics import fmean
from typing import Any, final

from vlmprof.errors import KnobValueError, as_written
from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, ExpertRouting

EXPECTED = "expected a number, a list with one for each mixture-of-experts block, or {k: either, renormalise: true}"


@final
class MoeTopK(AbstractKnob):
    """The number of experts that each token is routed to."""

    needs = ExpertRouting

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if anatomy.experts is None:
            raise KnobValueError(f"moe_top_k: {anatomy.architecture} is dense, it routes no experts")
        if isinstance(value, dict):
            _check_renormalised(value, anatomy)
        k, limit = _k(value), anatomy.reachable_experts or anatomy.experts
        if not isinstance(k, list | tuple):
            require_integer(k, low=1, high=limit, name="moe_top_k")
            return
        blocks = len(_router_counts(anatomy))
        if len(k) != blocks:
            raise KnobValueError(f"moe_top_k: expected one number for each of {blocks} blocks, got {len(k)}")
        for count in k:
            require_integer(count, low=1, high=limit, name="moe_top_k")

    def axis(self, value: Any) -> float:
        k = _k(value)
        return fmean(k) if isinstance(k, list | tuple) else float(k)

    def work(self, value: Any, anatomy: Anatomy) -> Hashable:
        if isinstance(value, dict) and not anatomy.renormalises:
            return super().work(value, anatomy)
        k, blocks = _k(value), len(_router_counts(anatomy))
        per_block = tuple(k) if isinstance(k, list | tuple) else (k,) * blocks
        return None if set(per_block) == {anatomy.experts_per_token} else per_block

    @contextmanager
    def applied(self, model: ExpertRouting, value: Any) -> Iterator[None]:
        with ExitStack() as undo:
            for router, k in zip(model.routers, _per_router(_k(value), model), strict=True):
                undo.callback(setattr, router, "top_k", router.top_k)
                router.top_k = k
                if isinstance(value, dict) and hasattr(router, "norm_topk_prob"):
                    undo.callback(setattr, router, "norm_topk_prob", router.norm_topk_prob)
                    router.norm_topk_prob = True
            yield

    def effect(self, value: Any, anatomy: Anatomy, observed: Observation) -> Effect:
        k, counts = _k(value), _router_counts(anatomy)
        per_block = k if isinstance(k, list | tuple) else [k] * len(counts)
        routers = [(block, per_block[i]) for i, (block, count) in enumerate(counts) for _ in range(count)]
        expected = {router: top_k for router, (block, top_k) in enumerate(routers) if block in observed.blocks_executed}
        # Compared router by router, because [1, 3] and [3, 1] have the same mean.
        if not expected or {router: experts for router, (experts, _) in observed.routing.items()} != expected:
            return "mismatch"
        if isinstance(value, dict):
            if not all(normalised for _, normalised in observed.routing.values()):
                return "mismatch"
            if not anatomy.renormalises:
                return "effective"
        return "no-op" if all(top_k == anatomy.experts_per_token for top_k in expected.values()) else "effective"


def _k(value: Any) -> Any:
    return value.get("k") if isinstance(value, dict) else value


def _check_renormalised(value: dict[str, Any], anatomy: Anatomy) -> None:
    if set(value) != {"k", "renormalise"} or value["renormalise"] is not True:
        raise KnobValueError(f"moe_top_k: {EXPECTED}, got {as_written(value)}")
    if anatomy.renormalises is None:
        raise KnobValueError(
            f"moe_top_k: the routers of {anatomy.architecture} have no switch for renormalisation: their code"
            " fixes how the chosen experts are weighted; leave 'renormalise' out"
        )


def _router_counts(anatomy: Anatomy) -> list[tuple[int, int]]:
    """(decoder block, routers in it) for every mixture-of-experts block."""
    blocks = anatomy.router_blocks or range(anatomy.decoder_blocks)
    return [(block, len(list(routers))) for block, routers in groupby(blocks)]


def _per_router(k: Any, model: ExpertRouting) -> Sequence[int]:
    """The top-k of every router, from one per block: blocks that route text and images separately have two routers."""
    routers = len(model.routers)
    if not isinstance(k, list | tuple):
        return [k] * routers
    return [top_k for top_k in k for _ in range(routers // len(k))]


KNOB = MoeTopK()
