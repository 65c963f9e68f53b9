"""The collector as a Ray actor, shared by a sweep's trials: the sole writer of its tables. See also
``sweep.sizer_actor``.

It is a plain class made remote. It owns no CPU, restarts when it dies, and its methods may be called twice with
the same arguments: Ray repeats a call that was in flight when the process was killed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any, final

import ray

from vlmprof.analyze.watch_state import SweepView
from vlmprof.monitor.live_state import LiveState, TrialLabel
from vlmprof.monitor.ray_metrics import RayMetricSink
from vlmprof.store.attempts import AttemptStart, Chunk, Death
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.heartbeat import TrialWork
from vlmprof.store.ledger import State
from vlmprof.store.submitted_job import SubmittedJob
from vlmprof.trial.progress import Progress

WRITER_WAIT_S = 30.0
"""A writer whose driver was killed lets go of the folder within seconds."""


@final
class CollectorActor:
    """A collector, and the board that says how far each running trial has come."""

    def __init__(self, where: str, sweep: str) -> None:
        # Ctrl-C on a terminal reaches every process of the group; the writer must outlive it to finish its line.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._collector = Collector(where, sweep, wait_s=WRITER_WAIT_S)
        self._board = LiveState(where, RayMetricSink(sweep))
        # After a restart nobody opens the run again.
        self._board.recover(self._collector.settled())
        self._board.start()

    def open_run(self, trials: Sequence[str], job: Mapping[str, Any], submitted: SubmittedJob | None) -> set[str]:
        """See ``Collector.open_run``."""
        finished = self._collector.open_run(trials, job, submitted)
        self._board.opened(trials)
        return finished

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """What each trial that is left costs, for displays."""
        self._board.expect(works)

    def begin(self, trial: str, attempt: str, software: str, process: str, *, shard: bool = False) -> AttemptStart:
        """See ``Collector.begin``."""
        return self._collector.begin(trial, attempt, software=software, process=process, shard=shard)

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None:
        """See ``Collector.under_way``."""
        self._collector.under_way(trial, attempt, samples)

    def keep(self, chunk: Chunk) -> None:
        """See ``Collector.keep``."""
        self._collector.keep(chunk)

    def dying(self, trial: str, attempt: str, cause: str) -> None:
        """See ``Collector.dying``."""
        self._collector.dying(trial, attempt, cause)

    def broken(self) -> str:
        """See ``Collector.broken``."""
        return self._collector.broken

    def began(self, trial: str, label: TrialLabel) -> None:
        """What a person calls a trial that has begun."""
        self._board.began(trial, label)

    def progress(self, trial: str, progress: Progress) -> None:
        """A trial comes along."""
        self._board.progress(trial, progress)

    def finish(self, result: TrialResult, attempt: str = "") -> None:
        """A trial has ended; it is on disk when this returns."""
        self._collector.finish(result, attempt)
        self._board.ended(result)

    def abandon(self, trials: Sequence[str], killer: str = "") -> dict[str, Death]:
        """These trials are not running any more, though nobody said how they ended: those that had begun, and how.

        ``killer`` as ``Collector.died`` takes it.
        """
        self._board.abandon(trials)
        deaths = {trial: self._collector.died(trial, killer) for trial in trials}
        return {trial: death for trial, death in deaths.items() if death is not None}

    def settled(self) -> dict[str, State]:
        """How each trial of this run ended."""
        return self._collector.settled()

    def view(self) -> SweepView:
        """The sweep now, for the driver's display."""
        return self._board.view()

    def close(self) -> None:
        """Let go of the folder."""
        self._board.close()
        self._collector.close()


@final
class RemoteAnswerStore:
    """The collector actor, with the face of a keeper: what was told is on disk when it returns."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None:
        ray.get(self._actor.under_way.remote(trial, attempt, list(samples)))

    def keep(self, chunk: Chunk) -> None:
        ray.get(self._actor.keep.remote(chunk))
