"""``Heartbeat``: the sign of life that a running sweep leaves in its folder every few seconds, and how far it has come.

The ledger says what has ended for good; it knows nothing of a trial under way, and a sweep that was killed looks in it
like one that runs. The pulse is small, replaced whole, not fsynced, and nothing but a display may depend on it: where
it is old, nobody is writing here any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from vlmprof.store.filesystem import Where, results_folder

HEARTBEAT = ".progress.json"
BEAT_S = 2.0
"""Between two beats."""
SILENT_S = 30.0
"""So old a beat means that nobody is there. Many beats: a network file system may show a file half a minute late."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial under way."""

    name: str
    """Model, task and knobs, as a person reads them; the trial's id where nobody said."""
    phase: str
    """One of ``trial.progress.Phase``, or ``start``."""
    done: int
    total: int
    seconds: float
    """Since the trial began, by the writer's clock."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One beat."""

    time: float
    """When it was written: seconds since 1970 by the writer's clock."""
    beat: int
    """Counts up: a reader that sees it change knows that somebody is there, whatever the two clocks say."""
    running: Mapping[str, RunningTrial] = field(default_factory=dict)
    """Trial id -> how far it is."""
    samples: int = 0
    """Scored since this writer began."""
    samples_per_s: float | None = None
    """Of the last minute, all trials together; None while nothing is scored."""
    closed: bool = False
    """The writer has let go of the folder: it ended, or was stopped in order."""

    def age_s(self, now: float) -> float:
        """How long ago, by a reader's clock; never below 0, whatever the clocks say."""
        return max(0.0, now - self.time)


def write_heartbeat(folder: Where, pulse: Heartbeat) -> None:
    """Replace the pulse of a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    results_folder(folder).rewrite(HEARTBEAT, json.dumps(asdict(pulse)).encode())


def read_heartbeat(folder: Where) -> Heartbeat | None:
    """The last beat in a folder; None where there is none, or none that this version can read."""
    try:
        return _pulse(json.loads(results_folder(folder).read(HEARTBEAT) or b""))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # a display without it says less, and nothing that is wrong


def _pulse(told: Mapping[str, Any]) -> Heartbeat:
    running = {str(trial): RunningTrial(**one) for trial, one in told["running"].items()}
    return Heartbeat(**{**told, "running": running})
