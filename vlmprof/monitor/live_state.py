"""``LiveState``: how far the running trials are, for whoever watches. Lives beside the collector; imports no ray.

It answers the driver's terminal (``Snapshot``), writes a heartbeat into the results folder for everybody else, and
tells a ``MetricSink`` what to count. Nothing of it is durable: after a restart it fills again with the next reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

from vlmprof.plan.point import TrialPlan
from vlmprof.store import ledger
from vlmprof.store.collector import TrialResult
from vlmprof.store.filesystem import Where
from vlmprof.store.heartbeat import BEAT_S, Heartbeat, RunningTrial, write_heartbeat
from vlmprof.store.ledger import FINISHED, State
from vlmprof.trial.progress import Progress

WINDOW_S = 60.0
"""Samples a second are those of the last minute: a rate over a whole sweep would hide that it got stuck."""


class MetricSink(Protocol):
    """Whoever counts what happens: Ray's metrics on a cluster, nobody elsewhere."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        """So many samples were answered."""
        ...

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""
        ...

    def standing(self, counts: Mapping[str, int], samples_per_s: float | None) -> None:
        """Trials by state, now."""
        ...


@final
class NoMetricSink:
    """A gauge that counts nothing."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        return

    def ended(self, result: TrialResult) -> None:
        return

    def standing(self, counts: Mapping[str, int], samples_per_s: float | None) -> None:
        return


@final
@dataclass(slots=True, kw_only=True)
class _TrialProgress:
    label: TrialLabel
    began: float
    progress: Progress | None = None
    scored: int | None = None
    """Samples the score pass had done when last heard of; None before it began."""


@final
@dataclass(slots=True, kw_only=True)
class _Rate:
    """Samples over the last minute."""

    total: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, samples: int, now: float) -> None:
        if not self.marks:
            self.marks.append((now, self.total))
        self.total += samples

    def per_s(self, now: float) -> float | None:
        if not self.marks:
            return None
        self.marks.append((now, self.total))
        while len(self.marks) > 2 and now - self.marks[1][0] >= WINDOW_S:
            self.marks.popleft()
        since, before = self.marks[0]
        span = now - since
        return (self.total - before) / span if span > 0 and self.total > before else None


@final
class LiveState:
    """How far each running trial has come. Its methods may be called from any thread."""

    def __init__(self, folder: Where | None, gauge: MetricSink, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is running, and nothing beats yet: see ``start``. Without a folder nobody is left a pulse."""
        self._folder, self._gauge, self._clock = folder, gauge, clock
        self._turn, self._over = threading.Lock(), threading.Event()
        self._trials: dict[str, _TrialProgress] = {}
        self._rate = _Rate()
        self._beat, self._planned, self._settled = 0, frozenset[str](), dict[str, State]()
        self._beating: threading.Thread | None = None

    def start(self) -> None:
        """Leave a pulse every few seconds from now on."""
        self._beating = threading.Thread(target=self._beat_on, name="vlmprof-pulse", daemon=True)
        self._beating.start()

    def opened(self, trials: Sequence[str], settled: Mapping[str, State] | None = None) -> None:
        """A run of these trials begins, or goes on after a restart; ``settled`` are those that ended in it before."""
        states = ledger.read_states(self._folder) if self._folder else {}
        finished = {trial: state for trial, state in states.items() if state in FINISHED}
        planned = frozenset(trials)
        with self._turn:
            self._planned = planned
            self._settled = {trial: state for trial, state in finished.items() if trial in planned}
            self._settled |= settled or {}

    def recover(self, settled: Mapping[str, State]) -> None:
        """Pick up the run that the ledger speaks of last."""
        lines = ledger.read(self._folder) if self._folder else ()
        runs = [line for line in lines if line["event"] == "sweep"]
        self.opened(runs[-1].get("trials", ()) if runs else (), settled)

    def began(self, trial: str, label: TrialLabel) -> None:
        """A trial starts. Told again, because its process died, it starts again."""
        with self._turn:
            self._trials[trial] = _TrialProgress(label=label, began=self._clock())

    def progress(self, trial: str, progress: Progress) -> None:
        """A trial comes along."""
        with self._turn:
            if trial in self._settled:
                return  # a late report of a trial that has ended
            one = self._trials.setdefault(trial, _unnamed(trial, self._clock()))
            one.progress = progress
            if progress.phase == "score":
                # What a trial had done before it was first heard of, a resumed one, was not scored now.
                new = progress.done - (progress.done if one.scored is None else one.scored)
                one.scored = progress.done
                if new > 0:
                    self._rate.add(new, self._clock())
                    self._gauge.scored(new, one.label)

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""
        with self._turn:
            self._trials.pop(result.trial, None)
            if self._settled.get(result.trial) != result.state:  # told twice, it ended once
                self._settled[result.trial] = result.state
                self._gauge.ended(result)

    def abandon(self, trials: Sequence[str]) -> None:
        """These trials are not running any more, though nobody said how they ended."""
        with self._turn:
            for trial in trials:
                self._trials.pop(trial, None)

    def running(self) -> dict[str, Progress]:
        """Trials that have said how far they are."""
        with self._turn:
            return {trial: one.progress for trial, one in self._trials.items() if one.progress}

    def beat(self, *, closed: bool = False) -> None:
        """Leave a pulse now; a folder that cannot be written to has none, and its readers will say so."""
        with self._turn:
            self._beat += 1
            now = self._clock()
            rate = self._rate.per_s(now)
            running = {} if closed else {trial: _said(one, now) for trial, one in self._trials.items()}
            pulse = Heartbeat(
                time=time.time(),
                beat=self._beat,
                running=running,
                samples=self._rate.total,
                samples_per_s=None if closed else rate,
                closed=closed,
            )
            self._gauge.standing(self._counts(running), rate)
        if self._folder is None:
            return
        try:
            write_heartbeat(self._folder, pulse)
        except OSError:
            return

    def close(self) -> None:
        """Stop beating; the last pulse says that nothing runs here any more."""
        self._over.set()
        if self._beating:
            self._beating.join()
        self.beat(closed=True)

    def _counts(self, running: Mapping[str, RunningTrial]) -> dict[str, int]:
        states = list(self._settled.values())
        ended = {state: states.count(state) for state in ("done", "oom", "failed")}
        waiting = len(self._planned - self._settled.keys() - running.keys())
        return {"waiting": waiting, "running": len(running), **ended}

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_S):
            self.beat()


def _unnamed(trial: str, now: float) -> _TrialProgress:
    return _TrialProgress(label=TrialLabel(name=trial, model="", task=""), began=now)


def _said(one: _TrialProgress, now: float) -> RunningTrial:
    told = one.progress
    phase, done, total = (told.phase, told.done, told.total) if told else ("start", 0, 1)
    return RunningTrial(name=one.label.name, phase=phase, done=done, total=total, seconds=round(now - one.began, 1))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a run stands."""

    total: int
    """Trials of the job."""
    skipped: int
    """Finished by an earlier run."""
    settled: Mapping[str, State] = field(default_factory=dict)
    """Trials that ended in this run, and how."""
    running: Mapping[str, Progress] = field(default_factory=dict)
    """Trials under way, and how far."""


class Display(Protocol):
    """Whoever shows a run."""

    def update(self, snapshot: Snapshot) -> None:
        """Called a few times a second, from any thread."""
        ...

    def note(self, line: str) -> None:
        """Something a person should read once."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLabel:
    """What a person calls a trial."""

    name: str
    model: str
    task: str

    @classmethod
    def of(cls, plan: TrialPlan) -> TrialLabel:
        """Of a plan."""
        return cls(name=str(plan), model=plan.model.label, task=plan.task.name)
