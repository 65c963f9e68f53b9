"""Running sweeps in tests, and comparing what they left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from vlmprof.analyze.watch_state import SweepView
from vlmprof.store import schema, tables
from vlmprof.store.collector import Collector
from vlmprof.store.ledger import State, read
from vlmprof.sweep.driver import launch
from vlmprof.sweep.inline import run_inline
from vlmprof.trial.progress import SECONDS_COLUMNS
from vlmprof.trial.resolve import Job

WHO = ["attempts", "samples_resumed", "score_processes", "score_mixed", "scored_by"]
WHO += ["samples_shared", "shared_rechecked", "shared_different", "peak_bytes", "batch_size"]
"""Which process answered what, and so how large its batches were: all processes give the same answers."""
TIMES = [*WHO, "seconds", "started", "samples_per_s", "process", "executor", "load_average", "sweep", "vlmprof_commit"]
TIMES += SECONDS_COLUMNS.values()


class Silent:
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.last: SweepView | None = None

    def update(self, view: SweepView) -> None:
        self.last = view

    def note(self, line: str) -> None:
        self.notes.append(line)


def run(job: Job, address: str, display: Silent | None = None) -> dict[str, State]:
    """Run a job on the tests' cluster."""
    return launch(job.spec, job.plans, address, display or Silent(), verbose=False)


def inline(job: Job) -> Path:
    """Run a job in a plain loop in this process; its results folder."""
    collector = Collector(job.spec.folder, job.spec.name, wait_s=1)
    collector.open_run([plan.id for plan in job.plans], {})
    run_inline(job.plans, 0, collector, Silent(), gpus=0)
    collector.close()
    return job.spec.folder


def command_line(*arguments: str) -> list[str]:
    """``vlmprof`` as a user would start it."""
    return [sys.executable, "-m", "vlmprof.cli", *arguments]


def vlmprof(*arguments: str, cwd: Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command_line(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=os.environ,
        check=False,
    )


def samples(folder: Path) -> pd.DataFrame:
    """The samples table in a fixed order, without what depends on which process answered."""
    answers = tables.read(folder, "samples").sort_values(["trial", "sample"], ignore_index=True)
    return answers.drop(columns=["answered_by", "batch_size"])


SET_BY_THE_JOB = {"timing_batch_size", "timing_output_tokens", "timing_requests", "timing_processes"}


def what_was_measured(folder: Path) -> pd.DataFrame:
    """The trials table without what time and place decide: two runs of one job must agree on the rest."""
    trials = tables.read(folder, "trials").sort_values("trial", ignore_index=True)
    timed = {field.name for field in schema._TIME} - SET_BY_THE_JOB
    return trials.drop(columns=[*timed, *TIMES])


def starts(folder: Path) -> list[str]:
    """Trials in the order in which they were started, again counted again."""
    return [entry["trial"] for entry in read(folder) if entry["event"] == "started"]
