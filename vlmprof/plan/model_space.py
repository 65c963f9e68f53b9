"""``ModelSpace``: one model of a job, and the space of the knobs that its trials sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vlmprof.job.spec import ModelSpec
from vlmprof.plan.strategy import Space


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpace:
    """One model of a job, and the space of the knobs that its trials sweep."""

    model: ModelSpec
    """Without knobs of its own: they are in ``knobs``."""
    fingerprint: str
    knobs: Space
    """Empty where none is left: the model then has one trial a task, as it is."""
    inapplicable: tuple[str, ...] = ()
    """Knobs of the job that the model has nothing for."""
