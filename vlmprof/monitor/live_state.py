"""``LiveState``: how far the running trials are, for whoever watches. It runs in the collector's process, without ray.

It gives the driver's terminal a ``SweepView``, the same value that ``analyze.watch_state`` makes from the folder,
writes a heartbeat into the results folder for everybody else, and tells a ``MetricSink`` what to count. Nothing of it
is durable: after a restart it fills again with the next reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

from vlmprof.analyze.status import Phase, SweepStatus, seconds_of_ended
from vlmprof.analyze.time_left import time_left
from vlmprof.analyze.watch_state import SweepView
from vlmprof.monitor.remaining_work import RemainingWork
from vlmprof.plan.point import TrialPlan
from vlmprof.store import ledger
from vlmprof.store.collector import TrialResult
from vlmprof.store.filesystem import Where
from vlmprof.store.heartbeat import BEAT_S, STEPS, Heartbeat, RunningTrial, Step, TrialWork, write_heartbeat
from vlmprof.store.ledger import FINISHED, State
from vlmprof.store.lost_trials import read_states
from vlmprof.trial.progress import Phase as TrialPhase
from vlmprof.trial.progress import Progress

WINDOW_S = 60.0
"""Samples a second are those of the last minute: a rate over a whole sweep would hide that it got stuck."""
STEP_OF: Mapping[TrialPhase, Step] = {
    "load": "load",
    "count": "count",
    "score": "score",
    "audit": "audit",
    "wait": "wait",
    "warm up": "time",
    "time": "time",
}
"""The step that a phase belongs to."""


class MetricSink(Protocol):
    """Whoever counts what happens: Ray's metrics on a cluster, nobody elsewhere."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        """So many samples were answered."""
        ...

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""
        ...

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        """Trials by state, now."""
        ...


@final
class NoMetricSink:
    """A gauge that counts nothing."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        return

    def ended(self, result: TrialResult) -> None:
        return

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        return


@final
@dataclass(slots=True, kw_only=True)
class _TrialProgress:
    label: TrialLabel
    began: float
    work: TrialWork | None = None
    progress: Progress | None = None
    said: float = 0.0
    """When it was last heard of; when it began, before that."""
    step: Step = "load"
    step_began: float = 0.0
    done_before: int = 0
    """Samples that were answered when the score pass began."""
    scored: int | None = None
    """Samples the score pass had done when last heard of; None before it began."""

    def running(self, now: float) -> RunningTrial:
        """As a heartbeat says it."""
        told = self.progress
        phase, done, total = (told.phase, told.done, told.total) if told else ("start", 0, 1)
        return RunningTrial(
            name=self.label.name,
            phase=phase,
            done=done,
            total=total,
            note=told.note if told else "",
            seconds=round(now - self.began, 1),
            step=self.step,
            step_seconds=round(now - self.step_began, 2),
            quiet_seconds=round(now - self.said, 2),
            done_before=self.done_before,
            work=self.work,
        )


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
        """Nothing is running, and no heartbeat is written yet: see ``start``. Without a folder none ever is."""
        self._folder, self._gauge, self._clock = folder, gauge, clock
        self._turn, self._over = threading.Lock(), threading.Event()
        self._trials: dict[str, _TrialProgress] = {}
        self._rate, self._work = _Rate(), RemainingWork()
        self._beat, self._planned, self._settled = 0, frozenset[str](), dict[str, State]()
        self._name, self._earlier = "", 0
        self._ended: dict[str, State] = {}
        self._reasons: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._beating: threading.Thread | None = None

    def start(self) -> None:
        """Write a heartbeat every few seconds from now on."""
        self._beating = threading.Thread(target=self._beat_on, name="vlmprof-pulse", daemon=True)
        self._beating.start()

    def opened(self, trials: Sequence[str], settled: Mapping[str, State] | None = None, *, earlier: int = 0) -> None:
        """A run of these trials begins, or goes on after a restart.

        Args:
            trials: Of the job.
            settled: Those that ended in this run before.
            earlier: How many more an earlier run finished, where nothing says which.
        """
        lines = list(ledger.read(self._folder)) if self._folder else []
        states = read_states(self._folder) if self._folder else {}
        finished = {trial: state for trial, state in states.items() if state in FINISHED}
        planned, name = frozenset(trials), next((x["name"] for x in reversed(lines) if x["event"] == "sweep"), "")
        with self._turn:
            self._planned, self._earlier, self._name = planned, earlier, name
            self._ended = dict(settled or {})
            self._seconds = {trial: s for trial, s in seconds_of_ended(lines).items() if trial in self._ended}
            self._settled = {trial: state for trial, state in finished.items() if trial in planned}
            self._settled |= self._ended

    def recover(self, settled: Mapping[str, State]) -> None:
        """Pick up the run that the ledger speaks of last."""
        lines = ledger.read(self._folder) if self._folder else ()
        runs = [line for line in lines if line["event"] == "sweep"]
        self.opened(runs[-1].get("trials", ()) if runs else (), settled)

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """What each trial that is left costs, in the order in which they are expected to begin."""
        with self._turn:
            self._work.expect(works)

    def began(self, trial: str, label: TrialLabel) -> None:
        """A trial starts. Told again, because its process died, it starts again."""
        with self._turn:
            self._began(trial, label)

    def progress(self, trial: str, progress: Progress) -> None:
        """A trial comes along."""
        with self._turn:
            if trial in self._settled:
                return  # a late report of a trial that has ended
            one = self._trials.get(trial) or self._began(trial, TrialLabel(name=trial, model="", task=""))
            self._enter_step(one, progress)
            one.progress, one.said = progress, self._clock()
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
            one = self._trials.pop(result.trial, None)
            if one and result.state == "done":
                self._complete_step(one)
            if self._settled.get(result.trial) != result.state:  # told twice, it ended once
                self._settled[result.trial] = self._ended[result.trial] = result.state
                self._seconds[result.trial] = float(result.row.get("seconds") or 0.0)  # type: ignore[arg-type]
                self._reasons[result.trial] = str(result.row.get("error") or "")
                self._gauge.ended(result)

    def abandon(self, trials: Sequence[str]) -> None:
        """These trials are not running any more, though nobody said how they ended."""
        with self._turn:
            for trial in trials:
                self._trials.pop(trial, None)

    def view(self) -> SweepView:
        """The sweep now, as the watch page gets it from the folder; without fronts, which need the tables."""
        with self._turn:
            pulse = self._pulse(closed=False)
            standing = SweepStatus(
                name=self._name,
                counts=self._counts(pulse.running),
                sign="alive",
                silent_s=0.0,
                running=tuple(sorted(pulse.running)),
                trial_seconds=sum(self._seconds.values()),
                seconds_of_ended=tuple(s for s in self._seconds.values() if s),
                ended={trial: state for trial, state in self._ended.items() if state != "started"},
                failed={
                    trial: self._reasons.get(trial, "") for trial, state in self._ended.items() if state == "failed"
                },
            )
        return SweepView(status=standing, pulse=pulse, left=time_left(standing, pulse))

    def beat(self, *, closed: bool = False) -> None:
        """Write a heartbeat now; a folder that cannot be written to has none, and its readers will say so."""
        with self._turn:
            self._beat += 1
            pulse = self._pulse(closed=closed)
            self._gauge.standing(self._counts(pulse.running), self._rate.per_s(self._clock()))
        if self._folder is None:
            return
        try:
            write_heartbeat(self._folder, pulse)
        except OSError:
            return

    def close(self) -> None:
        """Stop; the last heartbeat says that nothing runs here any more."""
        self._over.set()
        if self._beating:
            self._beating.join()
        self.beat(closed=True)

    def _pulse(self, *, closed: bool) -> Heartbeat:
        now = self._clock()
        running = {} if closed else {trial: one.running(now) for trial, one in self._trials.items()}
        not_begun = self._planned - self._settled.keys() - self._trials.keys()
        return Heartbeat(
            time=time.time(),
            beat=self._beat,
            running=running,
            samples=self._rate.total,
            samples_per_s=None if closed else self._rate.per_s(now),
            lanes=self._work.lanes,
            timing_lanes=self._work.timing_lanes,
            not_begun=len(not_begun),
            waiting=() if closed else self._work.waiting(not_begun),
            steps=self._work.steps,
            closed=closed,
        )

    def _began(self, trial: str, label: TrialLabel) -> _TrialProgress:
        now = self._clock()
        one = _TrialProgress(label=label, began=now, said=now, step_began=now, work=self._work.of(trial))
        self._trials[trial] = one
        self._work.lanes = max(self._work.lanes, len(self._trials))
        return one

    def _enter_step(self, one: _TrialProgress, progress: Progress) -> None:
        """Note that a trial has gone on to the next step, and how long the one before took."""
        step = STEP_OF[progress.phase]
        if STEPS.index(step) <= STEPS.index(one.step):
            return  # within the step; a model that is loaded anew between timing sessions is a part of timing
        if one.progress is None:
            one.step = "count"  # what it did before its first word, where it loaded no model, belongs to counting
        if step != one.step:
            self._complete_step(one)
        one.step, one.step_began = step, self._clock()
        one.done_before = progress.done if step == "score" else 0
        timing = sum(each.step == "time" for each in self._trials.values())
        self._work.timing_lanes = max(self._work.timing_lanes, timing)

    def _complete_step(self, one: _TrialProgress) -> None:
        if one.work is None:
            return
        share = 1.0
        if one.step == "score" and one.progress and one.progress.total:
            share = 1 - one.done_before / one.progress.total
        self._work.completed(one.step, share * one.work.cost(one.step), self._clock() - one.step_began)

    def _counts(self, running: Mapping[str, RunningTrial]) -> dict[Phase, int]:
        states = list(self._settled.values())
        waiting = len(self._planned - self._settled.keys() - running.keys())
        return {
            "waiting": waiting,
            "running": len(running),
            "done": states.count("done") + self._earlier,
            "oom": states.count("oom"),
            "failed": states.count("failed"),
        }

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_S):
            self.beat()


class Display(Protocol):
    """Whoever shows a run."""

    def update(self, view: SweepView) -> None:
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
