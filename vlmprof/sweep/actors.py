"""The two actors a sweep shares: the collector, sole writer of its tables, and the batch sizer.

Both are plain classes made remote. They own no CPU, restart when they die, and their methods may be called twice with
the same arguments: Ray repeats a call that was in flight when the process was killed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ray

from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import State
from vlmprof.trial.batching import BatchSizer
from vlmprof.trial.progress import Progress

WRITER_WAIT_S = 30.0
"""A writer whose driver was killed lets go of the folder within seconds."""


@final
class CollectorActor:
    """A collector, and the board that says how far each running trial has come."""

    def __init__(self, folder: str, sweep: str) -> None:
        # Ctrl-C on a terminal reaches every process of the group; the writer must outlive it to finish its line.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._collector = Collector(Path(folder), sweep, wait_s=WRITER_WAIT_S)
        self._running: dict[str, Progress] = {}

    def open_run(self, trials: Sequence[str], job: Mapping[str, Any]) -> set[str]:
        """See ``Collector.open_run``."""
        return self._collector.open_run(trials, job)

    def begin(self, trial: str) -> None:
        """A trial starts."""
        self._collector.begin(trial)

    def progress(self, trial: str, progress: Progress) -> None:
        """A trial comes along."""
        self._running[trial] = progress

    def finish(self, result: TrialResult) -> None:
        """A trial has ended; it is on disk when this returns."""
        self._collector.finish(result)
        self._running.pop(result.trial, None)

    def abandon(self, trials: Sequence[str]) -> None:
        """These trials are not running any more, though nobody said how they ended."""
        for trial in trials:
            self._running.pop(trial, None)

    def board(self) -> tuple[dict[str, State], dict[str, Progress]]:
        """What has ended in this run, and what is running."""
        return self._collector.settled(), dict(self._running)

    def close(self) -> None:
        """Let go of the folder."""
        self._collector.close()


@final
class SizerActor:
    """One batch sizer for all trials of a sweep."""

    def __init__(self) -> None:
        self._sizer = BatchSizer()

    def ask(self, key: str, most: int, total_bytes: int | None) -> int:
        """See ``BatchSizer.ask``."""
        return self._sizer.ask(key, most, total_bytes)

    def tell_fit(self, key: str, size: int, peak_bytes: int | None) -> None:
        """See ``BatchSizer.tell_fit``."""
        self._sizer.tell_fit(key, size, peak_bytes)

    def tell_out_of_memory(self, key: str, size: int) -> None:
        """See ``BatchSizer.tell_out_of_memory``."""
        self._sizer.tell_out_of_memory(key, size)


@final
@dataclass(frozen=True, slots=True)
class RemoteSizer:
    """The sizer actor, with the face of a sizer."""

    actor: Any

    def ask(self, key: str, most: int, total_bytes: int | None) -> int:
        size: int = ray.get(self.actor.ask.remote(key, most, total_bytes))
        return size

    def tell_fit(self, key: str, size: int, peak_bytes: int | None) -> None:
        ray.get(self.actor.tell_fit.remote(key, size, peak_bytes))

    def tell_out_of_memory(self, key: str, size: int) -> None:
        ray.get(self.actor.tell_out_of_memory.remote(key, size))
