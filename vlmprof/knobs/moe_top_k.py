"""Experts per token in every mixture-of-experts block: one number, or one for each such block.

The chosen experts' weights are not renormalised unless the model does so itself: in OLMoE and MolmoE fewer experts
also shrink the output of the block, which is part of what this knob measures. ``{k: n, renormalise: true}`` scales
them to sum to one, and is another value of the knob. Editing the configuration after loading changes nothing: the
routers read it once. This sets the routers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from statistics import fmean
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, ExpertRouting

EXPECTED = "expected a number, a list with one for each mixture-of-experts block, or {k: either, renormalise: true}"


@final
class MoeTopK(AbstractKnob):
    """Each token is sent to this many experts."""

    needs = ExpertRouting

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if anatomy.experts is None:
            raise KnobValueError(f"moe_top_k: {anatomy.architecture} is dense, it routes no experts")
        if isinstance(value, dict):
            _check_renormalised(value, anatomy)
        k, most = _k(value), anatomy.reachable_experts or anatomy.experts
        if not isinstance(k, list | tuple):
            require_whole(k, low=1, high=most, of="moe_top_k")
            return
        blocks = len(_router_counts(anatomy))
        if len(k) != blocks:
            raise KnobValueError(f"moe_top_k: expected one number for each of {blocks} blocks, got {len(k)}")
        for one in k:
            require_whole(one, low=1, high=most, of="moe_top_k")

    def axis(self, value: Any) -> float:
        k = _k(value)
        return fmean(k) if isinstance(k, list | tuple) else float(k)

    @contextmanager
    def applied(self, model: ExpertRouting, value: Any) -> Iterator[None]:
        with ExitStack() as undo:
            for router, k in zip(model.routers, _for_each(_k(value), model), strict=True):
                undo.callback(setattr, router, "top_k", router.top_k)
                router.top_k = k
                if isinstance(value, dict) and hasattr(router, "norm_topk_prob"):
                    undo.callback(setattr, router, "norm_topk_prob", router.norm_topk_prob)
                    router.norm_topk_prob = True
            yield

    def effect(self, value: Any, anatomy: Anatomy, seen: Observation) -> Effect:
        k, counts = _k(value), _router_counts(anatomy)
        per_block = k if isinstance(k, list | tuple) else [k] * len(counts)
        routers = [(block, per_block[place]) for place, (block, many) in enumerate(counts) for _ in range(many)]
        wanted = {router: one for router, (block, one) in enumerate(routers) if block in seen.blocks_executed}
        # Router by router: a mean would not tell [1, 3] from [3, 1].
        if not wanted or {router: experts for router, (experts, _) in seen.routing.items()} != wanted:
            return "mismatch"
        if isinstance(value, dict):
            if not all(normalised for _, normalised in seen.routing.values()):
                return "mismatch"
            if not anatomy.renormalises:
                return "effective"
        return "no-op" if all(one == anatomy.experts_per_token for one in wanted.values()) else "effective"


def _k(value: Any) -> Any:
    return value.get("k") if isinstance(value, dict) else value


def _check_renormalised(value: dict[str, Any], anatomy: Anatomy) -> None:
    if set(value) != {"k", "renormalise"} or value["renormalise"] is not True:
        raise KnobValueError(f"moe_top_k: {EXPECTED}, got {value!r}")
    if anatomy.renormalises is None:
        raise KnobValueError(
            f"moe_top_k: the routers of {anatomy.architecture} have no switch for renormalising: how they weigh the"
            " chosen experts is part of their code; leave 'renormalise' out"
        )


def _router_counts(anatomy: Anatomy) -> list[tuple[int, int]]:
    """(decoder block, routers in it) for every mixture-of-experts block."""
    blocks = anatomy.router_blocks or range(anatomy.decoder_blocks)
    return [(block, len(list(routers))) for block, routers in groupby(blocks)]


def _for_each(k: Any, model: ExpertRouting) -> Sequence[int]:
    """One number a router, from one a block: blocks that route text and images apart have several."""
    routers = len(model.routers)
    if not isinstance(k, list | tuple):
        return [k] * routers
    return [one for one in k for _ in range(routers // len(k))]


KNOB = MoeTopK()
