"""How often a trial may crash its process, and how often a Tuner may end early, before they are given up."""

from __future__ import annotations

from collections import Counter
from typing import final

from vlmprof.errors import UserError
from vlmprof.store.attempts import LOST_DEVICE, Death
from vlmprof.submit.origin import origin

MAX_CRASHES = 3
"""Consecutive crashes of a trial without progress; also consecutive Tuners that end without running anything."""
MAX_DEVICE_CRASHES = 2
"""The same if the accelerator's context was lost: its cause usually recurs in a new process."""
MAX_MEMORY_CRASHES = 8
"""The same if Ray's memory monitor killed the process: it may pick any process, and another job may use the memory.

With the pauses of ``TunerBackoff`` between them they span about two minutes.
"""
SHORT_OF_MEMORY, TUNER_ENDED = "its host was short of memory", "its Tuner ended early"
"""Prefixes of the reason of such a crash."""
FIRST_PAUSE_S = 1.0


@final
class TunerBackoff:
    """The pause before the next Tuner after one that ended early: it doubles for as long as there is no progress."""

    def __init__(self) -> None:
        self._failures = 0
        """Consecutive Tuners without progress."""

    def pause(self, *, progressed: bool, crashed: bool, low_memory: bool) -> float:
        """Seconds to wait before the remaining trials run again.

        Args:
            progressed: Whether a trial has ended, or one has made progress (``RetryBudget.made_progress``).
            crashed: Whether trials had begun and crashed; those are limited by their own retry budget.
            low_memory: Whether Ray's memory monitor killed a process.

        Raises:
            UserError: too many Tuners in a row made no progress.
        """
        if progressed or (crashed and not low_memory):
            self._failures = 0
            return FIRST_PAUSE_S if low_memory else 0.0
        self._failures += 1
        if self._failures >= (MAX_MEMORY_CRASHES if low_memory else MAX_CRASHES):
            if low_memory:
                raise UserError(
                    f"Ray's memory monitor ended the trials {self._failures} times in a row: the host needs more free"
                    " memory, or fewer trials at once; what was finished is kept"
                )
            submitted = origin()
            again = submitted.again if submitted else "vlmprof run"
            raise UserError(f"Ray Tune ended {self._failures} times and ran nothing; '{again} -v' shows its messages")
        return FIRST_PAUSE_S * 2.0 ** (self._failures - 1)


@final
class RetryBudget:
    """Counts the crashes of all trials of one run."""

    def __init__(self) -> None:
        self._crashes: dict[str, Counter[int]] = {}
        """Trial -> limit of a kind of crash -> crashes of that kind."""
        self._progress: dict[str, int] = {}
        """Trial -> ``Death.progress`` at its last crash."""

    def made_progress(self, trial: str, death: Death) -> bool:
        """Whether the trial has progressed since its last crash."""
        return death.progress > self._progress.get(trial, 0)

    def spend(self, trial: str, death: Death) -> str:
        """Count one more crash; returns why the trial is given up, or '' if it runs again.

        Progress since the last crash (answers that were kept, a sample that is suspected or quarantined) resets the
        count: such a trial comes to an end.
        """
        if self.made_progress(trial, death):
            self._crashes.pop(trial, None)
        self._progress[trial] = death.progress
        limit, crashes = _limit(death.reason), self._crashes.setdefault(trial, Counter())
        crashes[limit] += 1  # kinds are counted separately: a shortage of memory uses up none of the other retries
        count = crashes[limit]
        if count < limit:
            return ""
        return f"ended its process {count} times; the last time: {death.reason or 'see the logs of the cluster'}"


def _limit(reason: str) -> int:
    if reason.startswith(LOST_DEVICE):
        return MAX_DEVICE_CRASHES
    return MAX_MEMORY_CRASHES if reason.startswith(SHORT_OF_MEMORY) else MAX_CRASHES
