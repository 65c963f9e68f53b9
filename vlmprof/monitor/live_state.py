"""``LiveState``: progress of the running trials, kept in memory in the collector's process. Does not import ray.

It returns a ``SweepView`` for the driver's terminal, the same value that ``analyze.watch_state`` builds from the
results folder; it writes a heartbeat into that folder for all other readers; and it reports counts to a
``MetricSink``. Nothing here is durable: after a restart it is filled again by the next progress reports.
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
"""Window of the samples-per-second rate: the last minute. An average over the whole sweep would hide a stall."""
STEP_OF: Mapping[TrialPhase, Step] = {
    "load": "load",
    "count": "count",
    "probe": "score",
    "score": "score",
    "audit": "audit",
    "wait": "wait",
    "warm up": "time",
    "time": "time",
}
"""Phase of a progress report -> the step of the time estimate that it belongs to."""


class MetricSink(Protocol):
    """Receives counts of samples and trials: Ray's metrics on a cluster, ``NoMetricSink`` otherwise."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        """Called when ``samples`` more samples of a trial were scored."""
        ...

    def ended(self, result: TrialResult) -> None:
        """Called once for each trial that ended."""
        ...

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        """Called with every heartbeat: number of trials by state, and the scoring rate of the last minute."""
        ...


@final
class NoMetricSink:
    """Discards all counts."""

    def scored(self, samples: int, label: TrialLabel) -> None:
        return

    def ended(self, result: TrialResult) -> None:
        return

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        return


@final
@dataclass(slots=True, kw_only=True)
class _TrialProgress:
    """Progress of one running trial; times are readings of the clock of ``LiveState``, in seconds."""

    label: TrialLabel
    began: float
    work: TrialWork | None = None
    progress: Progress | None = None
    last_report: float = 0.0
    """Time of the latest progress report; the start of the trial before the first one."""
    step: Step = "load"
    step_began: float = 0.0
    done_before: int = 0
    """Samples that already had answers when the score pass began."""
    scored: int | None = None
    """Samples the score pass had done at the latest progress report; None before the score pass began."""

    def running(self, now: float) -> RunningTrial:
        """The entry of this trial in a heartbeat."""
        report = self.progress
        phase, done, total = (report.phase, report.done, report.total) if report else ("start", 0, 1)
        return RunningTrial(
            name=self.label.name,
            phase=phase,
            done=done,
            total=total,
            note=report.note if report else "",
            seconds=round(now - self.began, 1),
            step=self.step,
            step_seconds=round(now - self.step_began, 2),
            quiet_seconds=round(now - self.last_report, 2),
            done_before=self.done_before,
            work=self.work,
        )


@final
@dataclass(slots=True, kw_only=True)
class _Rate:
    """Rate of scored samples over the last minute."""

    total: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    """(time in seconds, total samples at that time), oldest first."""

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
        window_start, total_at_start = self.marks[0]
        span_s = now - window_start
        return (self.total - total_at_start) / span_s if span_s > 0 and self.total > total_at_start else None


@final
class LiveState:
    """Progress of the running trials. Thread-safe."""

    def __init__(self, folder: Where | None, metrics: MetricSink, clock: Callable[[], float] = time.monotonic) -> None:
        """No trial is running, and no heartbeat is written before ``start`` or ``beat``.

        Args:
            folder: The results folder; None: no heartbeat is ever written.
            metrics: Receives counts of samples and trials.
            clock: Returns the time in seconds; only differences matter.
        """
        self._folder, self._metrics, self._clock = folder, metrics, clock
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._trials: dict[str, _TrialProgress] = {}
        self._rate, self._work = _Rate(), RemainingWork()
        self._beat, self._planned, self._settled = 0, frozenset[str](), dict[str, State]()
        self._sweep_name, self._finished_before = "", 0
        self._ended: dict[str, State] = {}
        self._reasons: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._heartbeat_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start a thread that writes a heartbeat every ``BEAT_S`` seconds."""
        self._heartbeat_thread = threading.Thread(target=self._write_heartbeats, name="vlmprof-heartbeat", daemon=True)
        self._heartbeat_thread.start()

    def opened(self, trials: Sequence[str], settled: Mapping[str, State] | None = None, *, earlier: int = 0) -> None:
        """A run of these trials begins, or continues after a restart of this process.

        Args:
            trials: Ids of the job's trials.
            settled: Trials that ended earlier in this run, with their final states.
            earlier: Number of further trials that an earlier run finished and that are not in ``trials``.
        """
        lines = list(ledger.read(self._folder)) if self._folder else []
        states = read_states(self._folder) if self._folder else {}
        finished = {trial: state for trial, state in states.items() if state in FINISHED}
        planned = frozenset(trials)
        sweep_name = next((line["name"] for line in reversed(lines) if line["event"] == "sweep"), "")
        with self._lock:
            self._planned, self._finished_before, self._sweep_name = planned, earlier, sweep_name
            self._ended = dict(settled or {})
            self._seconds = {
                trial: seconds for trial, seconds in seconds_of_ended(lines).items() if trial in self._ended
            }
            self._settled = {trial: state for trial, state in finished.items() if trial in planned}
            self._settled |= self._ended

    def recover(self, settled: Mapping[str, State]) -> None:
        """Continue the run that the ledger recorded last, whose ended trials are ``settled``."""
        lines = ledger.read(self._folder) if self._folder else ()
        runs = [line for line in lines if line["event"] == "sweep"]
        self.opened(runs[-1].get("trials", ()) if runs else (), settled)

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        """Set the relative cost of each remaining trial, in the order in which they are expected to begin."""
        with self._lock:
            self._work.expect(works)

    def began(self, trial: str, label: TrialLabel) -> None:
        """A trial starts. A second call for the same trial, after its process died, starts it again."""
        with self._lock:
            self._began(trial, label)

    def progress(self, trial: str, progress: Progress) -> None:
        """A running trial reports its progress."""
        with self._lock:
            if trial in self._settled:
                return  # a late report of a trial that has ended
            running = self._trials.get(trial) or self._began(trial, TrialLabel(name=trial, model="", task=""))
            self._enter_step(running, progress)
            running.progress, running.last_report = progress, self._clock()
            if progress.phase == "score":
                # Samples done before a trial's first report were scored by an earlier process: a resumed trial.
                newly_scored = progress.done - (progress.done if running.scored is None else running.scored)
                running.scored = progress.done
                if newly_scored > 0:
                    self._rate.add(newly_scored, self._clock())
                    self._metrics.scored(newly_scored, running.label)

    def ended(self, result: TrialResult) -> None:
        """A trial has ended."""
        with self._lock:
            running = self._trials.pop(result.trial, None)
            if running and result.state == "done":
                self._complete_step(running)
            if self._settled.get(result.trial) != result.state:  # a result that is reported twice counts once
                self._settled[result.trial] = self._ended[result.trial] = result.state
                self._seconds[result.trial] = float(result.row.get("seconds") or 0.0)  # type: ignore[arg-type]
                self._reasons[result.trial] = str(result.row.get("error") or "")
                self._metrics.ended(result)

    def abandon(self, trials: Sequence[str]) -> None:
        """These trials are no longer running, and no result was reported for them; they count as waiting again."""
        with self._lock:
            for trial in trials:
                self._trials.pop(trial, None)

    def view(self) -> SweepView:
        """The state of the sweep now, as the watch page reads it from the folder; no fronts, which need the tables."""
        with self._lock:
            heartbeat = self._make_heartbeat(closed=False)
            status = SweepStatus(
                name=self._sweep_name,
                counts=self._counts(heartbeat.running),
                sign="alive",
                silent_s=0.0,
                running=tuple(sorted(heartbeat.running)),
                trial_seconds=sum(self._seconds.values()),
                seconds_of_ended=tuple(seconds for seconds in self._seconds.values() if seconds),
                ended={trial: state for trial, state in self._ended.items() if state != "started"},
                failed={
                    trial: self._reasons.get(trial, "") for trial, state in self._ended.items() if state == "failed"
                },
            )
        return SweepView(status=status, heartbeat=heartbeat, left=time_left(status, heartbeat))

    def beat(self, *, closed: bool = False) -> None:
        """Write a heartbeat now. Where the folder cannot be written to there is none, and readers report that."""
        with self._lock:
            self._beat += 1
            heartbeat = self._make_heartbeat(closed=closed)
            self._metrics.standing(self._counts(heartbeat.running), self._rate.per_s(self._clock()))
        if self._folder is None:
            return
        try:
            write_heartbeat(self._folder, heartbeat)
        except OSError:
            return

    def close(self) -> None:
        """Stop the heartbeat thread and write a last heartbeat, marked as closed."""
        self._closed.set()
        if self._heartbeat_thread:
            self._heartbeat_thread.join()
        self.beat(closed=True)

    def _make_heartbeat(self, *, closed: bool) -> Heartbeat:
        now = self._clock()
        running = {} if closed else {trial: progress.running(now) for trial, progress in self._trials.items()}
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
        started = _TrialProgress(label=label, began=now, last_report=now, step_began=now, work=self._work.of(trial))
        self._trials[trial] = started
        self._work.lanes = max(self._work.lanes, len(self._trials))
        return started

    def _enter_step(self, running: _TrialProgress, progress: Progress) -> None:
        """If the report is of a later step than the last one, record the new step and how long the old one took."""
        step = STEP_OF[progress.phase]
        if STEPS.index(step) <= STEPS.index(running.step):
            return  # still in the same step; reloading the model between timing sessions is part of timing
        if running.progress is None:
            running.step = "count"  # the first report is not of loading: no model was loaded, the time went to counting
        if step != running.step:
            self._complete_step(running)
        running.step, running.step_began = step, self._clock()
        running.done_before = progress.done if step == "score" else 0
        timing = sum(trial.step == "time" for trial in self._trials.values())
        self._work.timing_lanes = max(self._work.timing_lanes, timing)

    def _complete_step(self, running: _TrialProgress) -> None:
        """Add cost and duration of the step that ends now to the totals; of a resumed score pass only the new share."""
        if running.work is None:
            return
        share = 1.0
        if running.step == "score" and running.progress and running.progress.total:
            share = 1 - running.done_before / running.progress.total
        cost = share * running.work.cost(running.step)
        self._work.completed(running.step, cost, self._clock() - running.step_began)

    def _counts(self, running: Mapping[str, RunningTrial]) -> dict[Phase, int]:
        states = list(self._settled.values())
        waiting = len(self._planned - self._settled.keys() - running.keys())
        return {
            "waiting": waiting,
            "running": len(running),
            "done": states.count("done") + self._finished_before,
            "oom": states.count("oom"),
            "failed": states.count("failed"),
        }

    def _write_heartbeats(self) -> None:
        while not self._closed.wait(BEAT_S):
            self.beat()


class Display(Protocol):
    """Shows the progress of a run to a person."""

    def update(self, view: SweepView) -> None:
        """Called a few times a second, from any thread."""
        ...

    def note(self, line: str) -> None:
        """Show a message once."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLabel:
    """Names of a trial for people."""

    name: str
    model: str
    task: str

    @classmethod
    def of(cls, plan: TrialPlan) -> TrialLabel:
        """The label of a planned trial."""
        return cls(name=str(plan), model=plan.model.label, task=plan.task.name)
