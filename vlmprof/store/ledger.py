"""The ledger: append-only JSON lines, the one truth about which trial is in which state.

A line is written and fsynced after the tables it speaks of are in place. A crash can tear the last line only; the
next writer cuts it off, a reader passes over it. Lines of a trial that ended twice agree, the last one counts.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, final, get_args

from vlmprof.errors import StoreError

LEDGER = "ledger.jsonl"

State = Literal["started", "done", "oom", "failed"]
"""``done`` and ``oom`` are answers; ``started`` and ``failed`` trials run again."""
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("done", "oom")
ENDED: tuple[State, ...] = (*FINISHED, "failed")


@final
class Ledger:
    """The writing end; one at a time (the collector holds the folder's lock)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LEDGER
        if path.is_file():
            _cut_torn_tail(path)
        self._file = path.open("ab", buffering=0)

    def append(self, event: str, **fields: Any) -> None:
        """One line, on disk when this returns.

        Raises:
            OSError: the disk is full or gone; nothing of the line is left, so that later lines stay readable.
        """
        line = (json.dumps({"event": event, **fields}) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):  # an unbuffered file may take a part
                raise OSError(errno.ENOSPC, "the ledger took only part of a line", self._file.name)
        except OSError:
            self._file.truncate(before)
            raise
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(folder: Path) -> Iterator[Mapping[str, Any]]:
    """All whole lines, oldest first; nothing when there is no ledger.

    Raises:
        StoreError: a line other than a torn last one is not what the ledger writes.
    """
    path = folder / LEDGER
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        yield _parsed(line, f"{path}, line {number}")


def _parsed(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        raise StoreError(f"{where} is damaged: expected an object with an event, got {line[:80]!r}")
    return entry


def read_states(folder: Path) -> dict[str, State]:
    """Trial id -> its last state."""
    return {entry["trial"]: entry["event"] for entry in read(folder) if entry["event"] in STATES}


def _cut_torn_tail(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
