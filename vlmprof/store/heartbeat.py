"""``Heartbeat``: the sign of life that a running sweep leaves in its folder every few seconds, and how far it has come.

The ledger says what has ended for good; it knows nothing of a trial under way, and a sweep that was killed looks in it
like one that runs. The pulse is small, replaced whole, not fsynced, and nothing but a display may depend on it: where
it is old, nobody is writing here any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from vlmprof.store.filesystem import Where, results_folder

HEARTBEAT = ".progress.json"
BEAT_S = 2.0
"""Between two beats."""
GROUPS = 64
"""Most groups of waiting trials in a heartbeat: it is small however many trials a sweep has."""
SILENT_S = 30.0
"""So old a beat means that nobody is there. Many beats: a network file system may show a file half a minute late."""


Step = Literal["load", "count", "score", "audit", "wait", "time"]
"""A part of a trial whose duration is predicted by itself; ``wait`` is for the host's timing lock."""
STEPS: tuple[Step, ...] = ("load", "count", "score", "audit", "wait", "time")
"""In the order in which a trial takes them; a trial need not take all."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialWork:
    """Relative cost of a trial's steps, or the sums over a group of trials; the unit is that of ``sweep.cost``.

    The unit never matters to a reader: seconds for each unit are measured while the sweep runs.
    """

    load: float = 0.0
    """Models that are loaded for it: 1, or 0 where the model is in memory already."""
    score: float = 0.0
    """0 where its answers are cut from those of another trial."""
    timing: float = 0.0
    trials: int = 1
    """How many trials these are the sums of."""

    def cost(self, step: Step) -> float:
        """Of one step; 0 where the trial does not take it."""
        return {
            "load": self.load,
            "count": float(self.trials),
            "score": self.score,
            "audit": self.score,
            "wait": 0.0,  # it follows from what others do
            "time": self.timing,
        }[step]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Sums over the times that one step was completed in this run: enough to fit seconds against cost."""

    count: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    cost_squared: float = 0.0
    cost_seconds: float = 0.0
    seconds_squared: float = 0.0

    def plus(self, cost: float, seconds: float) -> StepTotals:
        """With one more."""
        return StepTotals(
            count=self.count + 1,
            cost=self.cost + cost,
            seconds=self.seconds + seconds,
            cost_squared=self.cost_squared + cost * cost,
            cost_seconds=self.cost_seconds + cost * seconds,
            seconds_squared=self.seconds_squared + seconds * seconds,
        )


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
    step: Step = "load"
    """What it is at, as ``work`` counts it."""
    step_seconds: float = 0.0
    """Since that step began."""
    quiet_seconds: float = 0.0
    """Since it last said how far it is."""
    note: str = ""
    """Why it goes on, in words."""
    done_before: int = 0
    """What ``done`` was when the step began: a trial that is resumed begins with the answers it has."""
    work: TrialWork | None = None
    """None where its cost is not known."""


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
    lanes: int = 0
    """The most trials that ran at once in this run; 0 where the writer did not say."""
    timing_lanes: int = 0
    """The most trials that timed at once: one a host, where timing passes exclude each other."""
    not_begun: int | None = None
    """Trials of this run that have not begun; None where the writer did not say."""
    waiting: tuple[TrialWork, ...] = ()
    """The work of those, in the expected order, at most ``GROUPS`` groups; empty where any cost is not known."""
    steps: Mapping[str, StepTotals] = field(default_factory=dict)
    """Step -> what it has cost and how long it took in this run."""
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
    return Heartbeat(
        **{
            **told,
            "running": {str(trial): _running(one) for trial, one in told["running"].items()},
            "waiting": tuple(TrialWork(**work) for work in told.get("waiting", ())),
            "steps": {step: StepTotals(**totals) for step, totals in told.get("steps", {}).items()},
        }
    )


def _running(told: Mapping[str, Any]) -> RunningTrial:
    work = told.get("work")
    return RunningTrial(**{**told, "work": TrialWork(**work) if work else None})
