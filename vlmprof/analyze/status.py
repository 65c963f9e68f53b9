"""Progress of a sweep, read from its results folder alone, so it also works when the cluster is gone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, final

from vlmprof.plan.point import words_of
from vlmprof.store import ledger, tables
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.heartbeat import SILENT_S, Heartbeat, read_heartbeat
from vlmprof.store.manifest import TABLES

Phase = Literal["waiting", "running", "done", "oom", "failed"]
PHASES: tuple[Phase, ...] = ("waiting", "running", "done", "oom", "failed")

WORDS: Mapping[Phase, str] = {phase: phase for phase in PHASES} | {"oom": "out of memory"}

Sign = Literal["alive", "ended", "silent", "none"]
"""Of life: beating; let go in order; no beat for ``SILENT_S``; never a beat (a folder of an older version)."""

STARTING_S = 30.0
"""From the first line of a ledger to the first sign of life, at most."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """Progress of a sweep."""

    name: str
    """Of the sweep that was started last in this folder; empty when no line names one."""
    counts: Mapping[Phase, int]
    """Every trial of the job that was started last, and those that earlier jobs finished here, once. ``waiting``:
    planned, or cut off when a run ended."""
    sign: Sign = "none"
    silent_s: float | None = None
    """Since the last beat, by this machine's clock; None where there never was one."""
    running: tuple[str, ...] = ()
    """Ids of the trials that the latest run has started and not ended, while it gives signs of life."""
    cut_off: tuple[str, ...] = ()
    """The same, where it does not: nobody is at work on them."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Trial id -> the reason that the ledger gives, one line."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Trial id -> its knobs and their values, of those that failed and whose line has them."""
    without_row: tuple[str, ...] = ()
    """Ids that the ledger calls finished although ``trials/`` has no file of them: the folder was tampered with."""
    unreadable: tuple[str, ...] = ()
    """The same, where a file of theirs in ``trials/``, ``samples/`` or ``timings/`` is damaged, or a further one gone.
    Both count as waiting, because the next run runs them again."""
    misplaced: tuple[str, ...] = ()
    """A sentence for each folder in the place of a file, or the reverse: the next run refuses to begin."""
    last_event: str = ""
    last_time: datetime | None = None
    trial_seconds: float = 0.0
    """Seconds spent in trials that ended, as the ledger says, all runs together."""
    seconds_of_ended: tuple[float, ...] = ()
    """Of each trial that ended in the latest run."""
    ended: Mapping[str, Phase] = field(default_factory=dict)
    """Trial id -> how it ended, of the trials that ended in the latest run."""

    @property
    def total(self) -> int:
        """All trials that the sweep has."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Trials that need no further run."""
        return self.counts["done"] + self.counts["oom"]

    @property
    def starting(self) -> bool:
        """Whether the sweep is so young that its first heartbeat may still come."""
        last = self.last_time
        return self.sign == "none" and last is not None and (datetime.now(UTC) - last).total_seconds() <= STARTING_S

    @property
    def life(self) -> str:
        """In words, whether a process works on the sweep."""
        if self.sign == "none":
            return "starting" if self.starting else "there never was a sign of life"
        if self.sign == "silent" and self.silent_s is None:
            return "no sign of life; the last is dated in the future, by a clock that is ahead"
        age = f"{self.silent_s or 0:.0f} s"
        return {
            "alive": f"running, last sign of life {age} ago",
            "ended": "ended in order",
            "silent": f"no sign of life for {age}",
        }[self.sign]

    def why(self, trial: str) -> str:
        """The settings of a failed trial and the reason."""
        reason = self.failed[trial] or "no reason given"
        return f"{self.settings[trial]}: {reason}" if trial in self.settings else reason

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) pairs for a terminal; reasons and warnings come last."""
        lines = [("sweep", self.name), ("finished", f"{self.finished} of {self.total}")]
        lines += [(WORDS[phase], str(self.counts[phase])) for phase in PHASES if self.counts[phase]]
        if self.cut_off:
            lines.append(("cut off", f"{len(self.cut_off)} of those waiting; {self.life}; run the job again to go on"))
        elif self.sign != "none" or self.starting:
            lines.append(("sweep is", self.life))
        if self.last_time:
            lines.append(("last event", f"{self.last_event}, {self.last_time.isoformat(sep=' ', timespec='seconds')}"))
        lines += [(f"failed {trial}", self.why(trial)) for trial in self.failed]
        lines += [("in the way", sentence) for sentence in self.misplaced]
        lines += [(f"lost {trial}", "the ledger lists it, trials/ has no file of it") for trial in self.without_row]
        lines += [
            (f"lost {trial}", "a file with its rows is damaged or gone; run the job again") for trial in self.unreadable
        ]
        return lines


def status(folder: Where, *, heard_s: float | None = None) -> SweepStatus:
    """Progress of the sweep in this folder.

    Args:
        folder: Of results.
        heard_s: Seconds since the caller saw the heartbeat change: it counts though the two clocks disagree.

    Raises:
        StoreError: the folder holds no sweep.
    """
    from vlmprof.store.lost_trials import lost_trials  # here, so that the chain of imports stays short
    from vlmprof.store.misplaced import misplaced

    ledger.require(folder)
    lines = list(ledger.read(folder))
    heartbeat = read_heartbeat(folder)
    ages = [age for age in (heard_s, _told_s(heartbeat, time.time())) if age is not None]
    sign = sign_of(heartbeat, min(ages, default=math.inf))
    phases = _phases(lines)
    started = tuple(sorted(trial for trial, phase in phases.items() if phase == "running"))
    if sign != "alive":
        phases |= dict.fromkeys(started, "waiting")
    lost, without_row = lost_trials(folder), tuple(tables.without_rows(folder))
    in_the_way = tuple(misplaced(results_folder(folder)))
    if in_the_way or any(
        results_folder(folder).names(table) for table in TABLES
    ):  # else only the ledger was ever written here
        phases |= dict.fromkeys(lost, "waiting")
    failed = sorted(trial for trial, phase in phases.items() if phase == "failed")
    last_lines = {line["trial"]: line for line in lines if line["event"] == "failed"}
    last = lines[-1] if lines else {}
    return SweepStatus(
        name=next((str(line.get("name", "")) for line in reversed(lines) if line["event"] == "sweep"), ""),
        counts={phase: list(phases.values()).count(phase) for phase in PHASES},
        sign=sign,
        silent_s=min(ages, default=None) if heartbeat else None,
        running=started if sign == "alive" else (),
        cut_off=started if sign != "alive" else (),
        failed={trial: str(last_lines[trial].get("error") or "") for trial in failed},
        settings={trial: words_of(str(point)) for trial in failed if (point := last_lines[trial].get("point"))},
        without_row=without_row,
        unreadable=tuple(trial for trial in lost if trial not in without_row),
        misplaced=in_the_way,
        last_event=str(last.get("event", "")),
        last_time=datetime.fromisoformat(last["time"]) if "time" in last else None,
        trial_seconds=sum(float(line.get("seconds") or 0.0) for line in lines),
        seconds_of_ended=tuple(seconds_of_ended(lines).values()),
        ended=ended_in_last_run(lines),
    )


def _told_s(heartbeat: Heartbeat | None, now: float) -> float | None:
    """Age of a heartbeat by the two clocks; None where it is dated in the future, which says nothing."""
    return None if heartbeat is None or heartbeat.is_of_the_future(now) else heartbeat.age_s(now)


def sign_of(heartbeat: Heartbeat | None, age_s: float) -> Sign:
    """Whether a process works in the folder that this heartbeat was read from, judged by the heartbeat's age."""
    if heartbeat is None:
        return "none"
    if heartbeat.closed:
        return "ended"
    return "alive" if age_s < SILENT_S else "silent"


def seconds_of_ended(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Trial id -> seconds, for trials of the latest run whose ledger line has the duration."""
    took = {line["trial"]: line.get("seconds") for line in _of_last_run(lines) if line["event"] in ledger.ENDED}
    return {trial: float(seconds) for trial, seconds in took.items() if seconds}


def ended_in_last_run(lines: Sequence[Mapping[str, Any]]) -> dict[str, Phase]:
    """Trial id -> final state, for trials that ended in the latest run."""
    return {line["trial"]: line["event"] for line in _of_last_run(lines) if line["event"] in ledger.ENDED}


def _of_last_run(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return lines[max((index for index, line in enumerate(lines) if line["event"] == "sweep"), default=0) :]


def _phases(lines: Iterable[Mapping[str, Any]]) -> dict[str, Phase]:
    phases: dict[str, Phase] = {}
    for line in lines:
        if line["event"] == "sweep":
            # One run at a time holds the folder: what an earlier one left running was cut off.
            phases = {trial: "waiting" if phase == "running" else phase for trial, phase in phases.items()}
            # A job that was corrected has other trials: what its first form left unfinished is no part of it any more.
            of_job = line.get("trials") or phases
            finished = {trial: phase for trial, phase in phases.items() if phase in ledger.FINISHED}
            phases = finished | {trial: phases.get(trial, "waiting") for trial in of_job}
        elif line["event"] in ledger.STATES:
            phases[line["trial"]] = "running" if line["event"] == "started" else line["event"]
    return phases
