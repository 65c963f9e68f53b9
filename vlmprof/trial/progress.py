"""``Progress``: the progress report of a trial, small enough to be sent after every batch; ``PhaseSeconds`` adds up
from the reports how long each phase took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

from vlmprof.records import Row

Phase = Literal["load", "count", "probe", "score", "audit", "wait", "warm up", "time"]
SECONDS_COLUMNS: Mapping[Phase, str] = {
    "load": "load_s",
    "count": "count_s",
    "probe": "probe_s",
    "score": "score_s",
    "audit": "audit_s",
    "warm up": "warmup_s",
}
"""Phase -> the column of its seconds. Waiting and the whole timing pass are columns of the latency."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total`` units of work of the current phase, such as samples while scoring."""

    phase: Phase
    done: int
    total: int
    note: str = ""
    """Why it goes on, where a number does not say it."""


@final
class PhaseSeconds:
    """Passes reports on, and adds up the seconds from the first report of each phase to that of the next phase."""

    def __init__(self, report: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a phase; ``clock`` gives seconds."""
        self._report, self._clock = report, clock
        self._phase: Phase | None = None
        self._since, self._seconds = clock(), dict[Phase, float]()

    def __call__(self, progress: Progress) -> None:
        self._add_up(progress.phase)
        self._report(progress)

    def columns(self) -> Row:
        """Seconds of every phase until now, by column; null for a phase that has not begun."""
        self._add_up(self._phase)
        return {column: self._seconds.get(phase) for phase, column in SECONDS_COLUMNS.items()}

    def _add_up(self, following: Phase | None) -> None:
        now = self._clock()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = following, now
