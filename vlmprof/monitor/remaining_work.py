"""``RemainingWork``: relative cost of the trials that have not begun, and cost and seconds of completed steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import final

from vlmprof.store.heartbeat import GROUPS, Step, StepTotals, TrialWork


@final
class RemainingWork:
    """The part of a heartbeat from which readers estimate the remaining time."""

    def __init__(self) -> None:
        """No costs are known yet, and no step has been completed."""
        self._works: dict[str, TrialWork] = {}
        self.steps: dict[str, StepTotals] = {}
        self.lanes = 0
        """The most trials that ran at once."""
        self.timing_lanes = 0
        """The most trials that were in their timing pass at once."""

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """Set the trials that are to run, in this order; replaces those of an earlier call."""
        self._works = dict(works)

    def of(self, trial: str) -> TrialWork | None:
        """Relative cost of a trial; None if it is not known."""
        return self._works.get(trial)

    def completed(self, step: Step, cost: float, seconds: float) -> None:
        """Add a completed step to the totals. A step with an expected cost of 0 is ignored: it cannot be fitted."""
        if cost > 0:
            self.steps = self.steps | {step: self.steps.get(step, StepTotals()).plus(cost, seconds)}

    def waiting(self, trials: Set[str]) -> tuple[TrialWork, ...]:
        """The work of these trials in the expected order; many trials are summed into at most ``GROUPS`` groups.

        Empty if the cost of any of them is not known.
        """
        works = [work for trial, work in self._works.items() if trial in trials]
        if len(works) < len(trials):
            return ()
        size = -(-len(works) // GROUPS) or 1
        return tuple(_sum(group) for group in _groups(works, size))


def _groups(works: Sequence[TrialWork], size: int) -> Iterator[Sequence[TrialWork]]:
    return (works[start : start + size] for start in range(0, len(works), size))


def _sum(works: Sequence[TrialWork]) -> TrialWork:
    return TrialWork(
        load=sum(work.load for work in works),
        score=sum(work.score for work in works),
        timing=sum(work.timing for work in works),
        trials=sum(work.trials for work in works),
    )
