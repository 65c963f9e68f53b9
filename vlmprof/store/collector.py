"""``Collector``: the only writer of a results folder. A plain class: the actor only makes it remote.

Commit order: the tables of a trial, each by fsync and rename, then its line in the ledger. Whoever holds the folder's
lock writes; a second sweep on the same folder is refused, by name.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from vlmprof.errors import StoreError
from vlmprof.records import Row
from vlmprof.store import schema, tables
from vlmprof.store.ledger import ENDED, FINISHED, Ledger, State, read, read_states

LOCK, HOLDER = ".writer.lock", ".writer.json"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What is kept of one trial."""

    trial: str
    knobs: tuple[str, ...]
    state: State
    row: Row
    samples: tuple[Row, ...] = ()
    timings: tuple[Row, ...] = ()
    trace: str = ""
    """Of a failed trial; kept in the ledger."""


@final
class Collector:
    """The writing end of a results folder."""

    def __init__(self, folder: Path, sweep: str, *, wait_s: float) -> None:
        """Take the folder.

        Args:
            folder: Made if it is not there.
            sweep: Name of the job, for every row.
            wait_s: How long to wait for another writer: one that was killed lets go within seconds.

        Raises:
            StoreError: another sweep is writing here, the folder was written by another version, or it cannot be
                written to.
        """
        self._folder, self._sweep = folder, sweep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _take(folder, wait_s)
            _require_version(folder)
            self._ledger = Ledger(folder)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written to: {error.strerror}") from None
        self._settled = _settled_since_last_run(folder)

    def open_run(self, trials: Sequence[str], job: Mapping[str, Any]) -> set[str]:
        """Note that a run begins.

        Returns:
            The trials that an earlier run has finished; they need not run again.
        """
        states = read_states(self._folder)
        version = schema.SCHEMA_VERSION
        self._settled.clear()
        self._ledger.append(
            "sweep", name=self._sweep, trials=list(trials), job=dict(job), schema_version=version, time=now()
        )
        return {trial for trial in trials if states.get(trial) in FINISHED}

    def begin(self, trial: str) -> None:
        """Note that a trial is starting."""
        self._ledger.append("started", trial=trial, time=now())

    def finish(self, result: TrialResult) -> None:
        """Keep a trial: its tables, then its line. Told again, it changes nothing that counts."""
        row = {**result.row, "sweep": self._sweep}
        if result.samples:
            tables.write(self._folder, "samples", result.trial, result.samples, schema.SAMPLES)
        if result.timings:
            tables.write(self._folder, "timings", result.trial, result.timings, schema.TIMINGS)
        tables.write(self._folder, "trials", result.trial, [row], schema.trials_schema(result.knobs))
        told = {name: row.get(name) for name in ("point", "seconds", "error")} | {"trace": result.trace}
        self._ledger.append(
            result.state, trial=result.trial, time=now(), **{name: value for name, value in told.items() if value}
        )
        self._settled[result.trial] = result.state

    def settled(self) -> dict[str, State]:
        """Trials that ended in this run, and how; a collector that was restarted knows it from the ledger."""
        return dict(self._settled)

    def close(self) -> None:
        """Let go of the folder."""
        self._ledger.close()
        self._lock.release()


def _settled_since_last_run(folder: Path) -> dict[str, State]:
    settled: dict[str, State] = {}
    for entry in read(folder):
        if entry["event"] == "sweep":
            settled.clear()
        elif "trial" in entry and entry["event"] in ENDED:
            settled[entry["trial"]] = entry["event"]
    return settled


def now() -> str:
    """UTC, to the second, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _take(folder: Path, wait_s: float) -> FileLock:
    lock = FileLock(folder / LOCK, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{folder} is being written by {_holder(folder)}; wait for it, or stop it first") from None
    holder = {"pid": os.getpid(), "host": platform.node(), "since": now()}
    (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
    return lock


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another sweep"
    return f"another sweep (process {holder['pid']} on {holder['host']}, since {holder['since']})"


def _require_version(folder: Path) -> None:
    for entry in read(folder):
        found = entry.get("schema_version", schema.SCHEMA_VERSION)
        if found != schema.SCHEMA_VERSION:
            raise StoreError(
                f"{folder} was written with schema {found}, this vlmprof writes {schema.SCHEMA_VERSION};"
                " name another 'storage' in the job"
            )
