"""One world on disk: JSON lines, appended, shared by every process that asks about it.

The first line says what the world is, in words, and names the file: one that was cleared and begun anew is another. A
torn last line, which a crash can leave, is passed over by readers and cut off by the next writer. Entries may be read
again and again: applying them twice changes nothing.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from vlmprof.trial.sizing.book import Entry, SizeBook

SUFFIX = ".jsonl"
LOCK_S = 30.0
FORMAT = 2
"""A part of every world's name: worlds of another format are stale, and their lines still read."""


@final
class Journal:
    """The file of one world, and the book that mirrors it."""

    def __init__(self, path: Path, about: Mapping[str, Any], book: SizeBook) -> None:
        """Open or begin a file.

        Args:
            path: Its place.
            about: What the world is; written when the file is new.
            book: Empty; filled from the file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._about, self._book, self._read = path, about, book, 0
        self._head = b""
        self._lock = FileLock(str(path.with_suffix(".lock")), timeout=LOCK_S)

    @contextmanager
    def current(self) -> Iterator[SizeBook]:
        """The book as all processes left it, and nobody else changes it for the length of a ``with`` block.

        Raises:
            filelock.Timeout: another process has held the file for half a minute.
        """
        with self._lock:
            self._catch_up()
            yield self._book

    def append(self, entries: list[Entry]) -> None:
        """Write what the book has taken in already; inside ``current`` only. On disk when this returns."""
        if not entries:
            return
        if not self._read:
            head = {"kind": "world", "format": FORMAT, "id": uuid.uuid4().hex, "about": dict(self._about)}
            self._head = json.dumps(head).encode() + b"\n"
        lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        data = lines if self._read else self._head + lines
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._read += len(data)

    def touch(self) -> None:
        """Note that the world was asked about now; inside ``current`` only."""
        if self._read:
            os.utime(self._path)

    def _forget(self) -> None:
        if self._read:
            self._book, self._read = SizeBook(prior=self._book.evidence.prior), 0

    def _catch_up(self) -> None:
        if not self._path.is_file():
            self._forget()
            return
        with self._path.open("r+b") as file:
            if self._read and file.readline() != self._head:  # cleared, and begun anew by another process
                self._forget()
            file.seek(0)
            self._head = file.readline()
            file.seek(self._read)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                file.truncate(self._read + whole)
        for entry in parsed(data[:whole]):
            self._book.apply(entry)
        self._read += whole


def parsed(data: bytes) -> Iterator[Entry]:
    """The entries in whole lines; one that is damaged is passed over: what it said is measured again."""
    for line in data.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("kind") in ("told", "lease"):
            yield entry


def about(path: Path) -> Mapping[str, Any]:
    """What the world of a file is; empty where the first line does not say."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        head = json.loads(first)
    except ValueError:
        return {}
    found = head.get("about") if isinstance(head, dict) else None
    return found if isinstance(found, dict) else {}
