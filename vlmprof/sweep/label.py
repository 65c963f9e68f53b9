"""``Label``: what a person calls a trial. Imported by every worker, so it imports next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vlmprof.plan.point import TrialPlan


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a person calls a trial."""

    name: str
    model: str
    task: str

    @classmethod
    def of(cls, plan: TrialPlan) -> Label:
        """Of a plan."""
        return cls(name=str(plan), model=plan.model.label, task=plan.task.name)
