"""``RemainingWork``: what is left of a run in relative cost, and what the completed steps of trials took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import final

from vlmprof.store.heartbeat import GROUPS, Step, StepTotals, TrialWork


@final
class RemainingWork:
    """Numbers of a heartbeat from which a reader estimates the time left."""

    def __init__(self) -> None:
        """No cost is known, and nothing has been completed."""
        self._works: dict[str, TrialWork] = {}
        self.steps: dict[str, StepTotals] = {}
        self.lanes = 0
        """The most trials that ran at once."""
        self.timing_lanes = 0
        """The most trials that timed at once."""

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """These trials are to run, in this order; told again, it replaces what was expected before."""
        self._works = dict(works)

    def of(self, trial: str) -> TrialWork | None:
        """What a trial costs; None where nothing says."""
        return self._works.get(trial)

    def completed(self, step: Step, cost: float, seconds: float) -> None:
        """A trial has completed a step; one that was expected to cost nothing says nothing about costs."""
        if cost > 0:
            self.steps = self.steps | {step: self.steps.get(step, StepTotals()).plus(cost, seconds)}

    def waiting(self, trials: Set[str]) -> tuple[TrialWork, ...]:
        """The work of these trials in the order in which they are expected, neighbours together where they are many.

        Empty where the cost of any of them is not known.
        """
        works = [work for trial, work in self._works.items() if trial in trials]
        if len(works) < len(trials):
            return ()
        size = -(-len(works) // GROUPS) or 1
        return tuple(_together(part) for part in _parts(works, size))


def _parts(works: Sequence[TrialWork], size: int) -> Iterator[Sequence[TrialWork]]:
    return (works[start : start + size] for start in range(0, len(works), size))


def _together(works: Sequence[TrialWork]) -> TrialWork:
    return TrialWork(
        load=sum(work.load for work in works),
        score=sum(work.score for work in works),
        timing=sum(work.timing for work in works),
        trials=sum(work.trials for work in works),
    )
