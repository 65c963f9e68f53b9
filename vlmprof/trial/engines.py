"""Which engine a trial runs on: what the job says, or what is best where it says ``auto``."""

from __future__ import annotations

from vlmprof.engine.engine import EAGER, AbstractEngine
from vlmprof.engine.fixed import engine_of
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan
from vlmprof.surfaces import Anatomy
from vlmprof.trial.engine_choice import RECORDABLE, why_not_recorded


def engine_for(plan: TrialPlan, anatomy: Anatomy, model: AbstractModel) -> AbstractEngine:
    """The engine of a trial.

    Raises:
        ModelError: the job names one that this model cannot run on, or not here.
    """
    reason = anatomy.only_eager or why_not_recorded(model.kernels)
    if plan.engine == "auto":
        records = model.device.startswith("cuda") and not reason
        return engine_of("graphs", model.device, pinned=_pinned(plan)) if records else EAGER
    return engine_of(plan.engine, model.device, only_eager=reason, pinned=_pinned(plan))


def _pinned(plan: TrialPlan) -> frozenset[str]:
    """Kernels that the point names: they run as named, also in decode steps."""
    return frozenset(RECORDABLE) & {name for name, _ in plan.point}
