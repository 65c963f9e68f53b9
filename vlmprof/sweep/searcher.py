"""``ScheduleSearcher``: Ray Tune asks it which trial to start, and it asks the ``Schedule``.

Tune calls a worker back into use for the next trial it is given. It handles one event at a time: a trial ends, its
worker is free, the next trial is asked for and goes to that worker. So what ended last is known when it is asked.
"""

from __future__ import annotations

from collections import deque
from typing import Any, final

from ray.tune.search import Searcher

from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.schedule import Schedule


@final
class ScheduleSearcher(Searcher):
    """Suggests the trials of a schedule, each once. ``TuneConfig.max_concurrent_trials`` bounds how many are live."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self._live: dict[str, ScheduledTrial] = {}
        self._free: deque[ScheduledTrial] = deque()
        """What the workers that are free now did last."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial; None where none is to be started now."""
        work = self._schedule.next(self._free.popleft() if self._free else None)
        if work is None:
            return None
        self._live[trial_id] = work
        return {"trial": work.trial}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note that a worker is free, or gone."""
        work = self._live.pop(trial_id)
        self._schedule.ended(work, worker_lives=not error)
        if not error:
            self._free.append(work)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see ``save``."""
