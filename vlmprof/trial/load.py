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


def by_load(plans: Iterable[TrialPlan]) -> tuple[TrialPlan, ...]:
    """The same plans, those of one load together; otherwise in their order."""
    together: dict[Hashable, list[TrialPlan]] = {}
    for plan in plans:
        together.setdefault(load_key(plan), []).append(plan)
    return tuple(plan for group in together.values() for plan in group)
