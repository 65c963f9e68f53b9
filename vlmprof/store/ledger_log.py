"""How the ledger's lines lie in a place: one file that grows, or small objects that never change.

``ledger.jsonl`` is for a disk of this host, where the kernel's lock leaves one writer: a line is appended, then fsync.

``ledger/<epoch>-<first>-<count>.jsonl`` is for file systems that other hosts see too, and for object stores, which
cannot append. A segment holds ``count`` lines, the first of them number ``first``. A writer begins its epoch with a
segment that holds all lines so far. From then on earlier epochs are history: whatever a writer that lost the folder
still adds to its own epoch is never read. Small segments are merged into larger ones as they gather, the small ones are
removed a while later, and a reader takes the longest segment that begins where the last one ended.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

from vlmprof.errors import StoreError
from vlmprof.store.filesystem import ResultsFolder

LEDGER, SEGMENTS = "ledger.jsonl", "ledger"
FAN = 32
"""So many segments of about one size become one."""
TRIES = 5
READERS = 16
NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.jsonl")


@final
@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """Which lines an object holds."""

    epoch: int
    first: int
    count: int

    @property
    def path(self) -> str:
        """Its name in the place."""
        return f"{SEGMENTS}/{self.epoch:06d}-{self.first:08d}-{self.count:08d}.jsonl"


class AbstractLedgerLog(ABC):
    """The writing end of a ledger's bytes."""

    @abstractmethod
    def append(self, line: bytes) -> None:
        """Add one line, with its end. On disk when this returns; nothing of it is there when this raises."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""


@final
class FileLog(AbstractLedgerLog):
    """One file on a disk of this host."""

    def __init__(self, place: ResultsFolder) -> None:
        assert place.folder is not None
        place.folder.mkdir(parents=True, exist_ok=True)
        path = place.folder / LEDGER
        data = path.read_bytes() if path.is_file() else b""
        self._file = path.open("ab", buffering=0)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a torn last line, that of a crash
            self._file.truncate(whole)
            os.fsync(self._file.fileno())

    def append(self, line: bytes) -> None:
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
        self._file.close()


@final
class SegmentLog(AbstractLedgerLog):
    """Objects that are written once, of one epoch."""

    def __init__(self, place: ResultsFolder, epoch: int, lines: Sequence[bytes]) -> None:
        """Begin an epoch.

        Args:
            place: Where.
            epoch: Higher than any before.
            lines: The whole ledger so far, each line with its end.
        """
        self._place, self._epoch, self._lines = place, epoch, list(lines)
        self._broken = False
        old = [segment for segment in _listed(place) if segment.epoch < epoch]
        self._tail = [self._write(0, len(lines))]
        # Readers that listed before this moment read the latest of the old epochs; the ones before that are done with.
        latest = max((segment.epoch for segment in old), default=0)
        self._remove(segment for segment in old if segment.epoch < latest)
        self._merged: list[Segment] = []

    def append(self, line: bytes) -> None:
        if self._broken:
            raise StoreError(f"{self._place}: a line of the ledger could not be written; start again to go on")
        self._merge()
        self._lines.append(line)
        try:
            self._tail.append(self._write(len(self._lines) - 1, 1))
        except BaseException:  # an interrupt too: a line that was not written must not count
            self._lines.pop()
            # An object store may yet carry out what it has reported as failed, over a later line of this number.
            self._broken = self._place.folder is None
            raise

    def close(self) -> None:
        self._remove(self._merged)
        self._merged = []

    def _merge(self) -> None:
        size = 1
        while len(self._tail) > FAN and all(segment.count <= size for segment in self._tail[-FAN:]):
            parts, size = self._tail[-FAN:], size * FAN
            count = sum(segment.count for segment in parts)
            self._tail[-FAN:] = [self._write(parts[0].first, count)]
            self._remove(self._merged)  # those of the merge before: by now nobody reads from a listing with them
            self._merged = parts

    def _write(self, first: int, count: int) -> Segment:
        segment = Segment(epoch=self._epoch, first=first, count=count)
        self._place.write(segment.path, b"".join(self._lines[first : first + count]))
        return segment

    def _remove(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            self._place.remove(segment.path)


def segmented(place: ResultsFolder) -> bool:
    """Whether the ledger is, or has to be, in segments."""
    return place.shared or bool(_listed(place))


def read_lines(place: ResultsFolder) -> list[bytes]:
    """All whole lines, oldest first, each with its end.

    Raises:
        StoreError: objects of the ledger are missing.
    """
    for _ in range(TRIES):
        chain, whole = _chain(_listed(place))
        if not chain:
            return _file_lines(place)
        found = _read_all(place, chain)
        if whole and None not in found:  # else a writer is merging: list again
            return [line for data in found if data for line in data.splitlines(keepends=True)]
    raise StoreError(f"{place}: objects of the ledger are missing in {SEGMENTS}/: it ends before {chain[-1].path}")


def exists(place: ResultsFolder) -> bool:
    """Whether there is a ledger."""
    return bool(_listed(place)) or (place.folder is not None and (place.folder / LEDGER).is_file())


def _file_lines(place: ResultsFolder) -> list[bytes]:
    lines = (place.read(LEDGER) or b"").splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def _read_all(place: ResultsFolder, chain: Sequence[Segment]) -> list[bytes | None]:
    if len(chain) == 1:
        return [place.read(chain[0].path)]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda segment: place.read(segment.path), chain))


def _listed(place: ResultsFolder) -> list[Segment]:
    found = (NAME.fullmatch(name) for name in place.names(SEGMENTS))
    return sorted(Segment(epoch=int(n[1]), first=int(n[2]), count=int(n[3])) for n in found if n)


def _chain(segments: Sequence[Segment]) -> tuple[list[Segment], bool]:
    """The segments that are the ledger, and whether all that are there fit."""
    begun = [segment.epoch for segment in segments if segment.first == 0]
    if not begun:
        return [], True
    longest = {segment.first: segment for segment in segments if segment.epoch == max(begun)}  # sorted: the last wins
    chain, end = [longest[0]], longest[0].count
    while end in longest and longest[end].count:  # an epoch that began with nothing has a segment without lines
        chain.append(longest[end])
        end += longest[end].count
    return chain, end >= max(segment.first + segment.count for segment in longest.values())
