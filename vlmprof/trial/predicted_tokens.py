"""How many vision tokens the trials of a job will see, before any of them has run."""

from __future__ import annotations

from collections.abc import Hashable
from typing import final

from vlmprof import registry
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.plan.point import TrialPlan
from vlmprof.trial.resolve import predicted_vision_tokens, resolve


@final
class PredictedTokens:
    """Counts once for all trials of a model and a task that see the pictures alike: of many, few do not."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._known: dict[Hashable, float] = {}

    def of(self, plan: TrialPlan) -> float:
        """Mean number of vision tokens per sample, as ``resolve.predicted_vision_tokens``.

        Raises:
            UserError: as ``resolve.resolve`` and ``resolve.predicted_vision_tokens``.
        """
        seen = tuple((name, text) for name, text in plan.point.items if _counts_tokens(name))
        key = plan.model, plan.model_fingerprint, plan.task, plan.task_revision, seen
        if key not in self._known:
            self._known[key] = predicted_vision_tokens(resolve(plan))
        return self._known[key]


def _counts_tokens(name: str) -> bool:
    return type(registry.load("knobs", name)).counts is not AbstractKnob.counts
