"""How a model is loaded for a trial, and which trials share one load.

Most knobs change a loaded model. A few (``AbstractKnob.load_argument``) are arguments of loading, so a loaded model
serves only the trials that agree in them; ``by_load`` orders plans so that every load happens once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from vlmprof import registry
from vlmprof.plan.point import TrialPlan

OUTPUT_TOKENS = "output_tokens"
"""The knob that cuts answers and changes nothing else in them."""
UNLIMITED = 2**31
"""For a plan without that knob: as long as the task allows, which is at least as long as any cap."""


def load_arguments(plan: TrialPlan) -> dict[str, str]:
    """Fields of ``models.family.Checkpoint`` that the job or a knob of the plan sets; the knob wins."""
    chosen: dict[str, str] = {"dtype": plan.model.dtype}
    for name, value in plan.point:
        argument = registry.load("knobs", name).load_argument
        if argument:
            chosen[argument] = value
    return chosen


def load_key(plan: TrialPlan) -> Hashable:
    """Equal for plans that can run on the same loaded model."""
    return plan.model, plan.model_fingerprint, tuple(sorted(load_arguments(plan).items()))


def key_without_length(plan: TrialPlan) -> Hashable:
    """Equal for plans whose answers differ in length only: the shorter answers are beginnings of the longer ones."""
    point = tuple(item for item in plan.point.items if item[0] != OUTPUT_TOKENS)
    computed = plan.batch_size, plan.audit_samples, plan.engine, plan.preprocess
    return load_key(plan), plan.task, plan.task_revision, point, *computed


def by_load(plans: Iterable[TrialPlan]) -> tuple[TrialPlan, ...]:
    """The same plans, grouped by load, otherwise in their order.

    Of plans that differ only in the length of answers, the longest comes first: the others are cut from its answers.
    """
    by_key: dict[Hashable, dict[Hashable, list[TrialPlan]]] = {}
    for plan in plans:
        by_key.setdefault(load_key(plan), {}).setdefault(key_without_length(plan), []).append(plan)
    chains = [chain for chains in by_key.values() for chain in chains.values()]
    return tuple(plan for chain in chains for plan in sorted(chain, key=_length, reverse=True))


def _length(plan: TrialPlan) -> int:
    return int(dict(plan.point).get(OUTPUT_TOKENS, UNLIMITED))
