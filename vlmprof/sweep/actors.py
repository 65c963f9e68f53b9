"""The collector as a Ray actor, shared by a sweep's trials: the only writer of its tables. See also
``sweep.sizer_actor``.

It wraps the plain class. It reserves no CPU, Ray restarts it when it dies, and its methods may be called twice with the
same arguments: Ray repeats a call that was in flight when the process was killed.
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
"""The lease of a writer whose driver was killed is free within seconds."""


@final
class CollectorActor:
    """A collector, and the live state of the running trials."""

    def __init__(self, where: str, sweep: str) -> None:
        # Ctrl-C on a terminal signals every process of the group; the writer must survive it to finish its line.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._collector = Collector(where, sweep, wait_s=WRITER_WAIT_S)
        self._live_state = LiveState(where, RayMetricSink(sweep))
        # After a restart the driver does not open the run again.
        self._live_state.recover(self._collector.settled())
        self._live_state.start()

    def open_run(self, trials: Sequence[str], job: Mapping[str, Any], submitted: SubmittedJob | None) -> set[str]:
        """See ``Collector.open_run``."""
        finished = self._collector.open_run(trials, job, submitted)
        self._live_state.opened(trials)
        return finished

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """What each trial that is left costs, for displays."""
        self._live_state.expect(works)

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
        """Note that a trial has begun, with its name for displays."""
        self._live_state.began(trial, label)

    def progress(self, trial: str, progress: Progress) -> None:
        """Note how far a trial has come."""
        self._live_state.progress(trial, progress)

    def finish(self, result: TrialResult, attempt: str = "") -> None:
        """Write a trial that has ended; it is on disk when this returns."""
        self._collector.finish(result, attempt)
        self._live_state.ended(result)

    def abandon(self, trials: Sequence[str], killer: str = "") -> dict[str, Death]:
        """Note that these trials are no longer running although they did not finish.

        Args:
            trials: Their ids.
            killer: See ``Collector.died``.

        Returns:
            Trial id -> its death, for those that had begun.
        """
        self._live_state.abandon(trials)
        deaths = {trial: self._collector.died(trial, killer) for trial in trials}
        return {trial: death for trial, death in deaths.items() if death is not None}

    def settled(self) -> dict[str, State]:
        """How each trial of this run ended."""
        return self._collector.settled()

    def view(self) -> SweepView:
        """The sweep now, for the driver's display."""
        return self._live_state.view()

    def close(self) -> None:
        """Release the folder."""
        self._live_state.close()
        self._collector.close()


@final
class RemoteAnswerStore:
    """The collector actor as an ``AnswerStore``: each call waits until the collector has processed it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None:
        ray.get(self._actor.under_way.remote(trial, attempt, list(samples)))

    def keep(self, chunk: Chunk) -> None:
        ray.get(self._actor.keep.remote(chunk))
