"""How often a trial may take its process with it before it is given up."""

from __future__ import annotations

from collections import Counter
from typing import final

from vlmprof.store.attempts import LOST_DEVICE, Death

LIVES = 3
"""Deaths in a row that teach nothing; one may be another's fault, such as the host's memory monitor's."""
LIVES_OF_A_DEVICE = 2
"""Likewise where the accelerator's context broke: it does so for a reason that a second process meets again."""


@final
class Lives:
    """Of all trials of one run."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()
        self._learnt: dict[str, int] = {}

    def spend(self, trial: str, death: Death) -> str:
        """One more death: why the trial is given up, or nothing if it runs again.

        A death after which more is known than after the one before (answers that were kept, a sample that is suspected
        or found guilty) begins a new count: such a trial comes to an end.
        """
        if death.learnt > self._learnt.get(trial, death.learnt):
            self._deaths[trial] = 0
        self._learnt[trial] = death.learnt
        self._deaths[trial] += 1
        count = self._deaths[trial]
        if count < (LIVES_OF_A_DEVICE if death.reason.startswith(LOST_DEVICE) else LIVES):
            return ""
        return f"ended its process {count} times; the last time: {death.reason or 'see the logs of the cluster'}"
