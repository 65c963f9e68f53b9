"""The ledger: append-only JSON lines, the one truth about which trial is in which state.

A line is on disk after the tables it speaks of are in place. A crash can tear the last line only; the next writer cuts
it off, a reader passes over it. Lines of a trial that ended twice agree, the last one counts. Where the lines lie, and
how on file systems that cannot append, is the journal's matter (``store.ledger_log``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, final, get_args

from vlmprof.errors import StoreError
from vlmprof.store import ledger_log
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.ledger_log import FileLog, SegmentLog

LEDGER = ledger_log.LEDGER

State = Literal["started", "done", "oom", "failed"]
"""``done`` and ``oom`` are answers; ``started`` and ``failed`` trials run again."""
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("done", "oom")
ENDED: tuple[State, ...] = (*FINISHED, "failed")


def _unfenced() -> None:
    """What a ledger asks before a line where nobody else can write."""


@final
class Ledger:
    """The writing end; one at a time (the collector holds the folder's lease)."""

    def __init__(self, where: Where, *, epoch: int = 0, check: Callable[[], None] = _unfenced) -> None:
        """Open the ledger, or begin it.

        Args:
            where: Of the results.
            epoch: Of the lease, where there is one.
            check: Called before each line; raises when the folder has been lost to another writer.

        Raises:
            StoreError: a line is not what the ledger writes.
        """
        place = results_folder(where)
        raw = ledger_log.read_lines(place)
        self.lines: list[Mapping[str, Any]] = [_parsed(line, _where(place, i)) for i, line in enumerate(raw, start=1)]
        """All of it, those appended here included."""
        self.states: dict[str, State] = _states(self.lines)
        """Trial id -> its last state."""
        self.epoch = epoch if ledger_log.segmented(place) else None
        """Which writer's objects the lines speak of; None on a disk of this host, where there is one writer."""
        self._check = check
        self._journal = FileLog(place) if self.epoch is None else SegmentLog(place, epoch, raw)

    def append(self, event: str, **fields: Any) -> None:
        """One line, on disk when this returns.

        Raises:
            OSError: the disk is full or gone; nothing of the line is left, so that later lines stay readable.
            StoreError: another writer has taken the folder over.
        """
        entry = {"event": event, **fields} | ({} if self.epoch is None else {"epoch": self.epoch})
        line = (json.dumps(entry) + "\n").encode()
        self._check()
        self._journal.append(line)
        self.lines.append(entry)
        self.states |= _states([entry])

    def close(self) -> None:
        """Let go of the file."""
        self._journal.close()


def exists(where: Where) -> bool:
    """Whether a sweep has been started here."""
    return ledger_log.exists(results_folder(where))


def require(where: Where) -> None:
    """Raise a StoreError where no sweep has been started."""
    if not exists(where):
        raise StoreError(f"{where} holds no sweep: there is no {LEDGER} in it; start one with 'vlmprof run JOB.yaml'")


def read(where: Where) -> Iterator[Mapping[str, Any]]:
    """All whole lines, oldest first; nothing when there is no ledger.

    Raises:
        StoreError: a line other than a torn last one is not what the ledger writes.
    """
    place = results_folder(where)
    for number, line in enumerate(ledger_log.read_lines(place), start=1):
        yield _parsed(line, _where(place, number))


def read_states(where: Where) -> dict[str, State]:
    """Trial id -> its last state."""
    return _states(read(where))


def _where(place: object, number: int) -> str:
    return f"{place}/{LEDGER}, line {number}"


def _states(entries: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]]) -> dict[str, State]:
    return {entry["trial"]: entry["event"] for entry in entries if entry["event"] in STATES}


def _parsed(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        raise StoreError(f"{where} is damaged: expected an object with an event, got {line[:80]!r}")
    return entry
