"""``Heartbeat``: a small file that a running sweep rewrites every few seconds: that it is running, and its progress.

The ledger records what has ended; it holds nothing about a trial in progress, and a sweep that was killed looks there
like one that is running. The heartbeat file is small, replaced as a whole and not fsynced. Only displays may depend on
it. If it is old, no process is writing to the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from vlmprof.regular_files import json_object, sound
from vlmprof.store.filesystem import Where, results_folder

HEARTBEAT = ".progress.json"
BEAT_S = 2.0
"""Seconds between two heartbeats."""
GROUPS = 64
"""Most groups of waiting trials in a heartbeat, so that it stays small however many trials a sweep has."""
SILENT_S = 30.0
"""A heartbeat older than this means that no process runs the sweep. It is many times ``BEAT_S`` because a network file
system may show a change half a minute late."""
FUTURE_S = 5.0
"""A heartbeat dated further in the future is of a clock that is ahead of the reader's."""
MOST_BYTES = 16 * 2**20
"""A heartbeat is smaller by far."""


Step = Literal["load", "count", "score", "audit", "wait", "time"]
"""A part of a trial whose duration is predicted separately; ``wait`` is waiting for the host's timing lock."""
STEPS: tuple[Step, ...] = ("load", "count", "score", "audit", "wait", "time")
"""In the order in which a trial runs them; a trial may skip some."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialWork:
    """Relative cost of a trial's steps, or the sums over a group of trials; the unit is that of ``sweep.cost``.

    Readers need not know the unit: seconds per unit are measured while the sweep runs.
    """

    load: float = 0.0
    """Number of model loads: 1, or 0 if the model is in memory already."""
    score: float = 0.0
    """0 if its answers are cut from the longer answers of another trial."""
    timing: float = 0.0
    trials: int = 1
    """Number of trials that were summed."""

    def cost(self, step: Step) -> float:
        """Relative cost of one step; 0 if the trial skips it."""
        return {
            "load": self.load,
            "count": float(self.trials),
            "score": self.score,
            "audit": self.score,
            "wait": 0.0,  # depends on the other trials of the host, not on this one
            "time": self.timing,
        }[step]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Sums over all completions of one step in this run: enough to fit a line of seconds against cost."""

    count: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    cost_squared: float = 0.0
    cost_seconds: float = 0.0
    seconds_squared: float = 0.0

    def plus(self, cost: float, seconds: float) -> StepTotals:
        """The totals with one more completion."""
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
    """A trial in progress."""

    name: str
    """Model, task and knobs in readable form; the trial's id if they are not known."""
    phase: str
    """One of ``trial.progress.Phase``, or ``start``."""
    done: int
    total: int
    seconds: float
    """Seconds since the trial began, by the writer's clock."""
    step: Step = "load"
    """The current step."""
    step_seconds: float = 0.0
    """Seconds since that step began."""
    quiet_seconds: float = 0.0
    """Seconds since its last progress report."""
    note: str = ""
    """Why it goes on, in words."""
    done_before: int = 0
    """``done`` when the step began: a resumed trial starts with the answers it already has."""
    work: TrialWork | None = None
    """Relative cost of its steps; None if it is not known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Contents of one heartbeat file."""

    time: float
    """When it was written: seconds since 1970 by the writer's clock."""
    beat: int
    """Counter: a reader that sees it change can tell that the sweep is running, even if the two clocks differ."""
    running: Mapping[str, RunningTrial] = field(default_factory=dict)
    """Trial id -> its progress."""
    samples: int = 0
    """Samples scored since this writer started."""
    samples_per_s: float | None = None
    """Scoring rate over the last minute, all trials together; None while nothing is scored."""
    lanes: int = 0
    """The most trials that ran at once in this run; 0 in files of writers that did not record it."""
    timing_lanes: int = 0
    """The most trials in their timing pass at once: one per host where ``timing.exclusive`` is set."""
    not_begun: int | None = None
    """Trials of this run that have not begun; None in files of writers that did not record it."""
    waiting: tuple[TrialWork, ...] = ()
    """Work of trials that have not begun, in expected order, up to ``GROUPS`` groups; empty if a cost is missing."""
    steps: Mapping[str, StepTotals] = field(default_factory=dict)
    """Step -> sums of its cost and duration over the trials that completed it in this run."""
    closed: bool = False
    """Whether the writer has released the folder: the run ended or was stopped cleanly."""

    def age_s(self, now: float) -> float:
        """Seconds since it was written, by the reader's clock ``now``; never below 0, even if the clocks differ."""
        return max(0.0, now - self.time)

    def is_of_the_future(self, now: float) -> bool:
        """Whether it is dated after ``now``. Then its age says nothing: only whether it changes tells of life."""
        return self.time > now + FUTURE_S


def write_heartbeat(folder: Where, heartbeat: Heartbeat) -> None:
    """Replace the heartbeat file of a results folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    results_folder(folder).rewrite(HEARTBEAT, json.dumps(asdict(heartbeat)).encode())


def read_heartbeat(folder: Where) -> Heartbeat | None:
    """The latest heartbeat of a results folder; None if there is none, or if this version cannot read it."""
    try:
        return _heartbeat(json_object(results_folder(folder).read(HEARTBEAT, MOST_BYTES) or b""))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # without it a display shows less, but nothing wrong


def _heartbeat(content: Mapping[str, Any]) -> Heartbeat:
    return sound(
        Heartbeat(
            **{
                **content,
                "running": {str(trial): _running_trial(entry) for trial, entry in content["running"].items()},
                "waiting": tuple(sound(TrialWork(**work)) for work in content.get("waiting", ())),
                "steps": {step: sound(StepTotals(**totals)) for step, totals in content.get("steps", {}).items()},
            }
        )
    )


def _running_trial(entry: Mapping[str, Any]) -> RunningTrial:
    work = entry.get("work")
    return sound(RunningTrial(**{**entry, "work": sound(TrialWork(**work)) if work else None}))
