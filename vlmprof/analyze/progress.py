"""How far a sweep is, from its results folder alone: no cluster is asked, so it works after one is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, final

from vlmprof.errors import StoreError
from vlmprof.store import ledger

Phase = Literal["waiting", "running", "done", "oom", "failed"]
PHASES: tuple[Phase, ...] = ("waiting", "running", "done", "oom", "failed")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a sweep stands."""

    name: str
    """Of the sweep that was started last in this folder; empty when no line names one."""
    counts: Mapping[Phase, int]
    """Every trial that a line names, once. ``waiting``: planned, or cut off when an earlier run ended."""
    running: tuple[str, ...] = ()
    """Ids of the trials that the latest run has started and not ended; of a run that was killed they stay here."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Trial id -> the reason that the ledger gives, one line."""
    without_row: tuple[str, ...] = ()
    """Ids that the ledger calls finished although ``trials/`` has no file of them: the folder was tampered with."""
    last_event: str = ""
    last_time: datetime | None = None
    trial_seconds: float = 0.0
    """Seconds spent in trials that ended, as the ledger says, all runs together."""

    @property
    def total(self) -> int:
        """All trials that the sweep has."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Trials that need no further run."""
        return self.counts["done"] + self.counts["oom"]

    def lines(self) -> list[tuple[str, str]]:
        """(what, how it stands) for a terminal; reasons and warnings come last."""
        lines = [("sweep", self.name), ("finished", f"{self.finished} of {self.total}")]
        lines += [(phase, str(self.counts[phase])) for phase in PHASES if self.counts[phase]]
        if self.last_time:
            lines.append(("last event", f"{self.last_event}, {self.last_time.isoformat(sep=' ', timespec='seconds')}"))
        lines += [(f"failed {trial}", reason or "no reason given") for trial, reason in self.failed.items()]
        lines += [(f"lost {trial}", "the ledger lists it, trials/ has no file of it") for trial in self.without_row]
        return lines


def status(folder: Path) -> Status:
    """Where the sweep in this folder stands.

    Raises:
        StoreError: the folder holds no sweep.
    """
    if not (folder / ledger.LEDGER).is_file():
        raise StoreError(
            f"{folder} holds no sweep: there is no {ledger.LEDGER} in it; start one with 'vlmprof run JOB.yaml'"
        )
    lines = list(ledger.read(folder))
    phases = _phases(lines)
    ended = sorted(trial for trial, phase in phases.items() if phase in ("done", "oom", "failed"))
    reasons = {line["trial"]: str(line.get("error") or "") for line in lines if line["event"] == "failed"}
    last = lines[-1] if lines else {}
    return Status(
        name=next((str(line.get("name", "")) for line in reversed(lines) if line["event"] == "sweep"), ""),
        counts={phase: list(phases.values()).count(phase) for phase in PHASES},
        running=tuple(sorted(trial for trial, phase in phases.items() if phase == "running")),
        failed={trial: reasons.get(trial, "") for trial in ended if phases[trial] == "failed"},
        without_row=tuple(trial for trial in ended if not _row_path(folder, trial).is_file()),
        last_event=str(last.get("event", "")),
        last_time=datetime.fromisoformat(last["time"]) if "time" in last else None,
        trial_seconds=sum(float(line.get("seconds") or 0.0) for line in lines),
    )


def _phases(lines: Iterable[Mapping[str, Any]]) -> dict[str, Phase]:
    phases: dict[str, Phase] = {}
    for line in lines:
        if line["event"] == "sweep":
            # One run at a time holds the folder: what an earlier one left running was cut off.
            phases = {trial: "waiting" if phase == "running" else phase for trial, phase in phases.items()}
            phases |= {trial: phases.get(trial, "waiting") for trial in line.get("trials", ())}
        elif line["event"] in ledger.STATES:
            phases[line["trial"]] = "running" if line["event"] == "started" else line["event"]
    return phases


def _row_path(folder: Path, trial: str) -> Path:
    return folder / "trials" / f"{trial}.parquet"
