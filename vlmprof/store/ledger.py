"""The ledger: append-only JSON lines, the only source for the state of each trial.

A line is written after the tables it refers to are on disk. A crash can tear the last line only; the next writer cuts
it off, a reader skips it. If a trial has ended twice, its last line counts. ``store.ledger_log`` decides how the lines
are stored, also on file systems that cannot append.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, final, get_args

from vlmprof.errors import StoreError, as_written
from vlmprof.store import ledger_log
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.ledger_log import FileLog, SegmentLog

LEDGER = ledger_log.LEDGER

State = Literal["started", "done", "oom", "failed"]
"""``done`` and ``oom`` are final; ``started`` and ``failed`` trials run again."""
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("done", "oom")
ENDED: tuple[State, ...] = (*FINISHED, "failed")


def _no_check() -> None:
    """The check before each line where no other process can write."""


@final
class Ledger:
    """Reads and appends the ledger; one writer at a time (the collector holds the folder's lease)."""

    def __init__(self, where: Where, *, epoch: int = 0, check: Callable[[], None] = _no_check) -> None:
        """Open the ledger, or begin one.

        Args:
            where: The results folder.
            epoch: That of the lease, where there is one.
            check: Called before each line; raises if another writer has taken the folder over.

        Raises:
            StoreError: a line is not what the ledger writes.
        """
        results = results_folder(where)
        raw = ledger_log.read_lines(results)
        self.lines: list[Mapping[str, Any]] = list(_entries(raw, results))
        """All lines, including those appended here."""
        self.states: dict[str, State] = _states(self.lines)
        """Trial id -> its last state."""
        self.epoch = epoch if ledger_log.is_segmented(results) else None
        """The writer's epoch, which is part of object names; None on a local disk, where there is one writer."""
        self._check = check
        self._log = FileLog(results) if self.epoch is None else SegmentLog(results, epoch, raw)

    def append(self, event: str, **fields: Any) -> None:
        """Add one line; it is on disk when this returns.

        Raises:
            OSError: the disk is full or gone; no part of the line is left, so that later lines stay readable.
            StoreError: another writer has taken the folder over.
        """
        entry = {"event": event, **fields} | ({} if self.epoch is None else {"epoch": self.epoch})
        line = (json.dumps(entry) + "\n").encode()
        self._check()
        self._log.append(line)
        self.lines.append(entry)
        self.states |= _states([entry])

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def exists(where: Where) -> bool:
    """Whether a sweep has been started here."""
    return ledger_log.exists(results_folder(where))


def require(where: Where) -> None:
    """Raise a StoreError where no sweep has been started."""
    if not exists(where):
        place = results_folder(where)
        if place.folder is not None and (place.folder / LEDGER).is_dir():
            raise StoreError(
                f"{place.address(LEDGER)} is a folder, and the ledger is a file of that name; move it away"
            )
        raise StoreError(f"{where} holds no sweep: there is no {LEDGER} in it; start one with 'vlmprof run JOB.yaml'")


def read(where: Where) -> Iterator[Mapping[str, Any]]:
    """All complete lines, oldest first; none if there is no ledger.

    Raises:
        StoreError: a line other than a torn last one is not what the ledger writes.
    """
    results = results_folder(where)
    yield from _entries(ledger_log.read_lines(results), results)


def read_states(where: Where) -> dict[str, State]:
    """Trial id -> its last state."""
    return _states(read(where))


def _entries(lines: Sequence[bytes], results: object) -> Iterator[Mapping[str, Any]]:
    written = [
        (number, line) for number, line in enumerate(lines, start=1) if line.strip()
    ]  # an editor leaves empty ones
    entries = _parsed_at_once([line for _, line in written])
    if entries is not None:
        yield from entries
        return
    for number, line in written:
        yield _parsed(line, f"{results}/{LEDGER}, line {number}")


def _states(entries: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]]) -> dict[str, State]:
    return {entry["trial"]: entry["event"] for entry in entries if entry["event"] in STATES}


def _parsed_at_once(lines: Sequence[bytes]) -> list[Mapping[str, Any]] | None:
    """All lines by one call of the parser, four times as fast as one by one; None if any is not an object of ours."""
    if not all(line.startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        return None  # halves of an object that would be one together
    try:
        entries: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return None
    ours = all(isinstance(entry, dict) and "event" in entry for entry in entries)
    return entries if ours and len(entries) == len(lines) else None


def _parsed(line: bytes, location: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        got = as_written(line[:80].decode(errors="replace").rstrip("\r\n"))
        advice = "delete the line, and the trial that it was about runs again with the job"
        raise StoreError(f"{location} is damaged: expected an object with an event, got {got}; {advice}")
    return entry
