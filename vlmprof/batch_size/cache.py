"""What has been measured about batch sizes, on disk: one JSON-lines file for each memory key, shared by all processes.

All files lie in one folder of the user's. A memory key is ``<device and model>-<versions>``: files that agree in the
first half and not in the second are stale for each other. What a stale file holds is a starting point for new probes;
no size is answered from it.

The first line of a file describes the key and names the file, so that one that was cleared and begun anew can be told
apart. A torn last line, which a crash can leave, is skipped by readers and cut off by the next writer. Applying an
entry twice changes nothing.

``kept_beside`` also copies the files that a sweep used into its results folder: whoever copies the folder copies the
measurements too. At the start of a sweep the results folder adds what the cache lacks; at the end, also of a sweep that
was stopped, the cache writes the files that were used. A driver that is killed skips that; the next run does it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from filelock import FileLock

from vlmprof.batch_size.coordinator import Entry, ProbeCoordinator
from vlmprof.batch_size.memory_model import MemoryPoint
from vlmprof.store import ledger
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder

SUFFIX = ".jsonl"
LOCK_S = 30.0
FORMAT = 2
"""A part of every world's name: worlds of another format are stale, and their lines still read."""


@final
class CacheFile:
    """The file of one world, and the book that mirrors it."""

    def __init__(self, path: Path, about: Mapping[str, Any], book: ProbeCoordinator) -> None:
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
    def current(self) -> Iterator[ProbeCoordinator]:
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
            self._book, self._read = ProbeCoordinator(prior=self._book.evidence.prior), 0

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


FOLDER = "VLMPROF_BATCH_SIZES"
"""Environment variable that names another folder."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """One world of the atlas, for people."""

    world: str
    about: Mapping[str, Any]
    configurations: int
    probes: int
    out_of_memory: int
    asked: float
    """When it was last asked about, in seconds since the epoch."""


def default_folder() -> Path:
    """Where the atlas lies unless it is said: the user's cache folder."""
    said = os.environ.get(FOLDER)
    if said:
        return Path(said).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "vlmprof" / "batch_sizes"


def opened(folder: Path, world: str, said: Mapping[str, Any]) -> CacheFile:
    """A world's journal, with what its stale likes measured as a prior."""
    return CacheFile(folder / f"{world}{SUFFIX}", said, ProbeCoordinator(prior=_prior(folder, world)))


def summaries(folder: Path) -> Iterator[CacheSummary]:
    """Every world, the newest first."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: -path.stat().st_mtime):
        book = _book(path)
        known = book.evidence.known.values()
        yield CacheSummary(
            world=path.stem,
            about=about(path),
            configurations=len(known),
            probes=sum(len(one.peaks) + len(one.refusals) for one in known),
            out_of_memory=sum(len(one.refusals) for one in known),
            asked=path.stat().st_mtime,
        )


def clear(folder: Path, prefix: str) -> list[str]:
    """Forget the worlds whose name begins so; returns their names."""
    gone = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if path.stem.startswith(prefix)]
    for path in gone:
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)
    return [path.stem for path in gone]


def adopt(folder: Path, worlds: Mapping[str, bytes]) -> None:
    """Take worlds, by the names of their files, where the atlas does not know them."""
    for name, data in worlds.items():
        if Path(name).name != name or not name.endswith(SUFFIX):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.{uuid.uuid4().hex[:8]}"
        partial.write_bytes(data)
        with suppress(FileExistsError):  # a link, unlike a rename, never takes the place of what is there
            (folder / name).hardlink_to(partial)
        partial.unlink()


def used(folder: Path, since: float) -> dict[str, bytes]:
    """The worlds that were asked about since a time, by the names of their files; whole lines."""
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.stat().st_mtime >= since:
            data = path.read_bytes()
            found[path.name] = data[: data.rfind(b"\n") + 1]
    return found


def _prior(folder: Path, world: str) -> dict[str, list[MemoryPoint]]:
    alike = world.split("-", maxsplit=1)[0]
    stale = [path for path in folder.glob(f"{alike}-*{SUFFIX}") if path.stem != world]
    newest = max(stale, key=lambda path: path.stat().st_mtime, default=None)
    return _book(newest).evidence.points() if newest else {}


def _book(path: Path) -> ProbeCoordinator:
    book = ProbeCoordinator()
    for entry in parsed(path.read_bytes()):
        book.apply(entry)
    return book


BESIDE = "batch_sizes"


class SharedCache(Protocol):
    """A sizer, as far as its atlas can be told and asked; see ``batch_size.sizer.BatchSizer``."""

    def adopt(self, worlds: Mapping[str, bytes]) -> float: ...
    def used(self, since: float) -> Mapping[str, bytes]: ...


@contextmanager
def kept_beside(results: Where, atlas: SharedCache) -> Iterator[None]:
    """Measurements go from a results folder to the atlas before a ``with`` block, and back after it."""
    place = results_folder(results)
    there = {name: place.read(f"{BESIDE}/{name}") for name in place.names(BESIDE)}
    since = atlas.adopt({name: data for name, data in there.items() if data is not None})
    try:
        yield
    finally:
        with suppress(OSError):  # full or gone: whoever stops the sweep says so, and the atlas has these anyway
            _write(place, atlas.used(since))


def _write(place: ResultsFolder, worlds: Mapping[str, bytes]) -> None:
    if ledger.exists(place):  # a folder that was taken away is not made anew
        for name, data in worlds.items():
            place.write(f"{BESIDE}/{name}", data)
