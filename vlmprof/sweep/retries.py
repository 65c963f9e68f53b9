"""How often a trial may take its process with it, and a Tuner end early, before they are given up."""

from __future__ import annotations

from collections import Counter
from typing import final

from vlmprof.errors import UserError
from vlmprof.store.attempts import LOST_DEVICE, Death

LIVES = 3
"""Deaths in a row that teach nothing; likewise Tuners that end in a row and run nothing."""
LIVES_OF_A_DEVICE = 2
"""Likewise where the accelerator's context broke: it does so for a reason that a second process meets again."""
LIVES_OF_MEMORY = 8
"""Likewise where Ray's memory monitor struck: it kills whoever is there, and the shortage may be another job's.

With ``TunerBackoff`` between them they span about two minutes.
"""
SHORT_OF_MEMORY, FELL = "its host was short of memory", "its Tuner ended early"
"""How the reason of such a death begins."""
FIRST_PAUSE_S = 1.0


@final
class TunerBackoff:
    """With Tuners that end early: the pause before the next doubles for as long as nothing comes of them."""

    def __init__(self) -> None:
        self._in_vain = 0

    def pause(self, *, gained: bool, died: bool, short: bool) -> float:
        """Seconds to wait before what is left runs again.

        Args:
            gained: Whether a trial has settled, or more is known of one than before.
            died: Whether trials had begun and died; they spend their own lives.
            short: Whether Ray's memory monitor struck.

        Raises:
            UserError: too many in a row came to nothing.
        """
        if gained or (died and not short):
            self._in_vain = 0
            return FIRST_PAUSE_S if short else 0.0
        self._in_vain += 1
        if self._in_vain >= (LIVES_OF_MEMORY if short else LIVES):
            if short:
                raise UserError(
                    f"Ray's memory monitor ended the trials {self._in_vain} times in a row: the host needs more free"
                    " memory, or fewer trials at once; what was finished is kept"
                )
            raise UserError(f"Ray Tune ended {self._in_vain} times and ran nothing; 'vlmprof run -v' lets it say why")
        return FIRST_PAUSE_S * 2.0 ** (self._in_vain - 1)


@final
class RetryBudget:
    """Of all trials of one run."""

    def __init__(self) -> None:
        self._deaths: dict[str, Counter[int]] = {}
        """Trial -> how many deaths a kind allows -> how many of that kind it died."""
        self._learnt: dict[str, int] = {}

    def teaches(self, trial: str, death: Death) -> bool:
        """Whether more is known of the trial than at its last death."""
        return death.learnt > self._learnt.get(trial, 0)

    def spend(self, trial: str, death: Death) -> str:
        """One more death: why the trial is given up, or nothing if it runs again.

        A death after which more is known than after the one before (answers that were kept, a sample that is suspected
        or found guilty) begins a new count: such a trial comes to an end.
        """
        if self.teaches(trial, death):
            self._deaths.pop(trial, None)
        self._learnt[trial] = death.learnt
        allowed, deaths = _allowed(death.reason), self._deaths.setdefault(trial, Counter())
        deaths[allowed] += 1  # each kind by itself: a shortage of memory leaves a trial the lives that it had
        count = deaths[allowed]
        if count < allowed:
            return ""
        return f"ended its process {count} times; the last time: {death.reason or 'see the logs of the cluster'}"


def _allowed(reason: str) -> int:
    if reason.startswith(LOST_DEVICE):
        return LIVES_OF_A_DEVICE
    return LIVES_OF_MEMORY if reason.startswith(SHORT_OF_MEMORY) else LIVES
