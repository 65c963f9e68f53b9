"""``ScheduleSearcher``: a Ray Tune searcher that takes the next trial from the ``Schedule``.

Tune reuses a worker for the next trial that the searcher suggests. It handles one event at a time: a trial ends, its
worker is free, Tune asks for the next trial and gives it to that worker. So ``suggest`` knows which trial that worker
ran last.
"""

from __future__ import annotations

from collections import deque
from typing import Any, final

from ray.tune.search import Searcher

from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.schedule import Schedule


@final
class ScheduleSearcher(Searcher):
    """Suggests each trial of a schedule once. ``TuneConfig.max_concurrent_trials`` bounds how many run at a time."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self._running: dict[str, ScheduledTrial] = {}
        self._idle: deque[ScheduledTrial] = deque()
        """Last trial of each idle worker."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial; None if none is to be started now."""
        trial = self._schedule.next(self._idle.popleft() if self._idle else None)
        if trial is None:
            return None
        self._running[trial_id] = trial
        return {"trial": trial.id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that a worker is free, or gone."""
        trial = self._running.pop(trial_id)
        self._schedule.ended(trial, worker_alive=not error)
        if not error:
            self._idle.append(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger records what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see ``save``."""
