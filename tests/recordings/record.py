"""Records how a sweep went, for the estimate of the time left: what each trial was to cost, and when it said what.

    python -m tests.recordings.record JOB.yaml TO.json

runs the job inline into a folder that is thrown away. Reports within 0.05 s of the one before are left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from vlmprof.monitor.live_state import LiveState, TrialLabel
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.heartbeat import TrialWork
from vlmprof.sweep import inline
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import prepare

DENSE_S = 0.05


class RecordedLiveState:
    """A ``LiveState`` that writes down what it is told."""

    def __init__(self, told: list[list[Any]], *arguments: Any) -> None:
        self._real, self._told, self._began = LiveState(*arguments), told, time.monotonic()
        self.works: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def expect(self, works: Mapping[str, TrialWork]) -> None:
        self.works.update({trial: [work.load, work.score, work.timing] for trial, work in works.items()})
        self._real.expect(works)

    def began(self, trial: str, label: TrialLabel) -> None:
        self._note("began", trial)
        self._real.began(trial, label)

    def progress(self, trial: str, progress: Progress) -> None:
        self._note("progress", trial, *asdict(progress).values())
        self._real.progress(trial, progress)

    def ended(self, result: TrialResult) -> None:
        self._note("ended", result.trial, result.state, round(float(result.row["seconds"]), 3))
        self._real.ended(result)

    def _note(self, *what: Any) -> None:
        now = round(time.monotonic() - self._began, 3)
        last = self._told[-1] if self._told else None
        if last and last[1:4] == list(what[:3]) and what[0] == "progress" and now - last[0] < DENSE_S:
            return
        self._told.append([now, *what])


class Quiet:
    """A display that shows nothing."""

    def update(self, view: object) -> None: ...
    def note(self, line: str) -> None: ...


def record(job_file: Path) -> dict[str, Any]:
    """The works and the events of a run; trials are numbered in the order of the job."""
    job, told, made = prepare(job_file), [], []

    def recorded(*arguments: Any) -> RecordedLiveState:
        made.append(RecordedLiveState(told, *arguments))
        return made[-1]

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(inline, "LiveState", recorded):
        collector = Collector(folder, job.spec.name, wait_s=1)
        collector.open_run([plan.id for plan in job.plans], {})
        inline.run_inline(job.plans, 0, collector, Quiet(), gpus=0, policy=job.spec.chunk, folder=folder)
        collector.close()
    number = {plan.id: f"t{place}" for place, plan in enumerate(job.plans)}
    works = {number[trial]: work for trial, work in made[0].works.items()}
    return {"works": works, "events": [[event[0], event[1], number[event[2]], *event[3:]] for event in told]}


def write(recording: Mapping[str, Any], to: Path) -> None:
    """A line an event, so that two recordings can be compared."""
    works = ",\n".join(f"  {json.dumps(trial)}: {json.dumps(work)}" for trial, work in recording["works"].items())
    events = ",\n".join(f"  {json.dumps(event)}" for event in recording["events"])
    to.write_text(f'{{"works": {{\n{works}\n}}, "events": [\n{events}\n]}}\n')


if __name__ == "__main__":
    write(record(Path(sys.argv[1])), Path(sys.argv[2]))
