"""How the ledger's lines are stored in a results folder: in one file that grows, or in small objects that never change.

``ledger.jsonl`` is for a local disk, where the file lock leaves one writer: a line is appended, then fsync.

``ledger/<epoch>-<first>-<count>.jsonl`` is for file systems that other hosts mount too, and for object stores, which
cannot append. A segment holds ``count`` lines; the first of them has the number ``first``. A writer begins its epoch
with a segment that holds all lines so far. From then on earlier epochs are not read: a writer that lost the folder may
still add to its own epoch, without effect. As small segments accumulate they are merged into larger ones and removed a
while later; a reader takes the longest segment that begins where the last one ended.
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
"""Segments of about one size that are merged into one."""
TRIES = 5
READERS = 16
"""Segments read at a time."""
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
        """Its name in the results folder."""
        return f"{SEGMENTS}/{self.epoch:06d}-{self.first:08d}-{self.count:08d}.jsonl"


class AbstractLedgerLog(ABC):
    """Writes the ledger's bytes."""

    @abstractmethod
    def append(self, line: bytes) -> None:
        """Add one line, with its line end. On disk when this returns; no part of it is there when this raises."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""


@final
class FileLog(AbstractLedgerLog):
    """One file on a local disk."""

    def __init__(self, results: ResultsFolder) -> None:
        assert results.folder is not None
        results.folder.mkdir(parents=True, exist_ok=True)
        path = results.folder / LEDGER
        data = path.read_bytes() if path.is_file() else b""
        self._file = path.open("ab", buffering=0)
        complete = data.rfind(b"\n") + 1
        if complete < len(data):  # a crash tore the last line
            self._file.truncate(complete)
            os.fsync(self._file.fileno())

    def append(self, line: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):  # an unbuffered file may write only a part
                raise OSError(errno.ENOSPC, "the ledger took only part of a line", self._file.name)
            os.fsync(self._file.fileno())
        except OSError as error:
            # Readers see a line before it is on disk. One that its writer takes for lost must not stay.
            try:
                self._file.truncate(size)
            except OSError as stays:
                said = f"{error.strerror or error}; its last line could not be taken back ({stays.strerror or stays})"
                raise OSError(error.errno, said, self._file.name) from None
            raise

    def close(self) -> None:
        self._file.close()


@final
class SegmentLog(AbstractLedgerLog):
    """Objects of one epoch, each written once."""

    def __init__(self, results: ResultsFolder, epoch: int, lines: Sequence[bytes]) -> None:
        """Begin an epoch.

        Args:
            results: The folder.
            epoch: Higher than any before.
            lines: The whole ledger so far, each line with its line end.
        """
        self._results, self._epoch, self._lines = results, epoch, list(lines)
        self._broken = False
        old = [segment for segment in _list_segments(results) if segment.epoch < epoch]
        self._tail = [self._write(0, len(lines))]
        # Readers that listed before this moment read the latest of the old epochs; no reader needs the ones before.
        latest = max((segment.epoch for segment in old), default=0)
        self._remove(segment for segment in old if segment.epoch < latest)
        self._merged: list[Segment] = []

    def append(self, line: bytes) -> None:
        if self._broken:
            raise StoreError(f"{self._results}: a line of the ledger could not be written; start again to go on")
        self._merge()
        self._lines.append(line)
        try:
            self._tail.append(self._write(len(self._lines) - 1, 1))
        except BaseException:  # an interrupt too: a line that was not written must not be counted
            self._lines.pop()
            # An object store may still complete a PUT that it reported as failed, over a later line of this number.
            self._broken = self._results.folder is None or not self._taken_back()
            raise

    def _taken_back(self) -> bool:
        """Whether the segment that could not be written is not there; its rename may have preceded the fault."""
        try:
            self._results.remove(Segment(epoch=self._epoch, first=len(self._lines), count=1).path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._remove(self._merged)
        self._merged = []

    def _merge(self) -> None:
        size = 1
        while len(self._tail) > FAN and all(segment.count <= size for segment in self._tail[-FAN:]):
            parts, size = self._tail[-FAN:], size * FAN
            count = sum(segment.count for segment in parts)
            self._tail[-FAN:] = [self._write(parts[0].first, count)]
            self._remove(self._merged)  # those of the previous merge: by now no reader has a listing with them
            self._merged = parts

    def _write(self, first: int, count: int) -> Segment:
        segment = Segment(epoch=self._epoch, first=first, count=count)
        self._results.write(segment.path, b"".join(self._lines[first : first + count]))
        return segment

    def _remove(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            self._results.remove(segment.path)


def is_segmented(results: ResultsFolder) -> bool:
    """Whether the ledger is, or has to be, in segments."""
    return results.shared or bool(_list_segments(results))


def read_lines(results: ResultsFolder) -> list[bytes]:
    """All complete lines, oldest first, each with its line end.

    Raises:
        StoreError: objects of the ledger are missing.
    """
    for _ in range(TRIES):
        chain, is_complete = _chain(_list_segments(results))
        if not chain:
            return _file_lines(results)
        contents = _read_all(results, chain)
        if is_complete and None not in contents:  # otherwise a writer is merging: list again
            return [line for data in contents if data for line in data.splitlines(keepends=True)]
    raise StoreError(f"{results}: objects of the ledger are missing in {SEGMENTS}/: it ends before {chain[-1].path}")


def exists(results: ResultsFolder) -> bool:
    """Whether there is a ledger."""
    return bool(_list_segments(results)) or (results.folder is not None and (results.folder / LEDGER).is_file())


def _file_lines(results: ResultsFolder) -> list[bytes]:
    lines = (results.read(LEDGER) or b"").splitlines(keepends=True)
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def _read_all(results: ResultsFolder, chain: Sequence[Segment]) -> list[bytes | None]:
    if len(chain) == 1:
        return [results.read(chain[0].path)]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda segment: results.read(segment.path), chain))


def _list_segments(results: ResultsFolder) -> list[Segment]:
    matches = (NAME.fullmatch(name) for name in results.names(SEGMENTS))
    return sorted(Segment(epoch=int(match[1]), first=int(match[2]), count=int(match[3])) for match in matches if match)


def _chain(segments: Sequence[Segment]) -> tuple[list[Segment], bool]:
    """The segments that make up the ledger, and whether they reach its end, so that none is missing."""
    complete_epochs = [segment.epoch for segment in segments if segment.first == 0]
    if not complete_epochs:
        return [], True
    latest = max(complete_epochs)
    longest = {segment.first: segment for segment in segments if segment.epoch == latest}  # sorted: the last one wins
    chain, end = [longest[0]], longest[0].count
    while end in longest and longest[end].count:  # an epoch that began with an empty ledger has a segment of no lines
        chain.append(longest[end])
        end += longest[end].count
    return chain, end >= max(segment.first + segment.count for segment in longest.values())
