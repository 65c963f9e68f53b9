"""How a model is loaded for a trial, and which trials share one load.

Most knobs turn a loaded model. A few (``AbstractKnob.load_argument``) are arguments of loading, so a model serves only
the trials that agree in them; plans are put in an order in which every load happens once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from vlmprof import registry
from vlmprof.plan.point import TrialPlan


def load_arguments(plan: TrialPlan) -> dict[str, str]:
    """Fields of ``models.family.Checkpoint`` that the job or a knob of the plan sets; the knob wins."""
    chosen: dict[str, str] = {"dtype": plan.model.dtype}
    for name, value in plan.point:
        argument = registry.load("knobs", name).load_argument
        if argument:
            chosen[argument] = value
    return chosen


def load_key(plan: TrialPlan) -> Hashable:
    """Equal for plans that one loaded model serves."""
    return plan.model, plan.model_fingerprint, tuple(sorted(load_arguments(plan).items()))


def key_without_length(plan: TrialPlan) -> Hashable:
    """Equal for plans whose answers differ in their length alone: the shorter are beginnings of the longer."""
    point = tuple(item for item in plan.point.items if item[0] != OUTPUT_TOKENS)
    return load_key(plan), plan.task, plan.task_revision, point, plan.batch_size, plan.audit_samples, plan.engine


def by_load(plans: Iterable[TrialPlan]) -> tuple[TrialPlan, ...]:
    """The same plans, those of one load together; otherwise in their order.

    Where they differ in the length of answers alone, the longest comes first: the others are cut from its answers.
    """
    together: dict[Hashable, dict[Hashable, list[TrialPlan]]] = {}
    for plan in plans:
        together.setdefault(load_key(plan), {}).setdefault(key_without_length(plan), []).append(plan)
    alike = [same for group in together.values() for same in group.values()]
    return tuple(plan for same in alike for plan in sorted(same, key=_length, reverse=True))


def _length(plan: TrialPlan) -> int:
    return int(dict(plan.point).get(OUTPUT_TOKENS, AS_LONG_AS_THE_TASK_ALLOWS))


AS_LONG_AS_THE_TASK_ALLOWS = 2**31
OUTPUT_TOKENS = "output_tokens"
"""The knob that cuts answers and changes nothing else in them."""
