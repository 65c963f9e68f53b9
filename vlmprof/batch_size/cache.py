"""The batch-size cache on disk: one JSON-lines file for each memory key, shared by all processes of a user.

A memory key is ``<device and model>-<versions>``. A file whose key agrees in the first half and not in the second is
stale: its measurements are a starting point for new probes, and no reply is taken from them.

The first line of a file describes its key and has an id of its own, by which a process sees that the file was cleared
and begun again. A torn last line, which a crash can leave, is skipped by readers and cut off by the next writer.
Applying an entry twice changes nothing.

``kept_with_results`` also copies the files that a sweep used into its results folder, so that the measurements go
wherever the folder is copied. At the start of a sweep, files of the results folder are added to the cache where it has
none of that name; at the end, also when the sweep is stopped, the files that were used are copied back. A driver that
is killed does not copy; the next run does.
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
from vlmprof.regular_files import json_object, open_regular, read_regular
from vlmprof.store import ledger
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder

SUFFIX = ".jsonl"
LOCK_S = 30.0
MOST_BYTES = 2**30
"""Thousands of configurations have a thousandth of it."""
FORMAT = 2
"""Part of every memory key: a file of another format is stale, and its lines can still be read."""
FOLDER = "VLMPROF_BATCH_SIZES"
"""Environment variable that names another folder for the cache."""
IN_RESULTS = "batch_sizes"
"""The folder of a results folder that holds copies of cache files."""


@final
class CacheFile:
    """The file of one memory key, and the coordinator that holds the same state in memory."""

    def __init__(self, path: Path, about: Mapping[str, Any], coordinator: ProbeCoordinator) -> None:
        """Open a file, which need not exist yet.

        Args:
            path: Of the file.
            about: What the memory key consists of; written when the file is new.
            coordinator: Without entries; those of the file are applied to it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._about, self._coordinator = path, about, coordinator
        self._read_bytes, self._first_line = 0, b""
        self._lock = FileLock(str(path.with_suffix(".lock")), timeout=LOCK_S)

    @property
    def coordinator(self) -> ProbeCoordinator:
        """As it was when the file was last read."""
        return self._coordinator

    @contextmanager
    def current(self) -> Iterator[ProbeCoordinator]:
        """The coordinator with the entries of all processes; the file is locked for the length of a ``with`` block.

        Raises:
            filelock.Timeout: another process has held the file for half a minute.
            OSError: the file cannot be read, or is none.
        """
        with self._lock:
            self._apply_new_lines()
            yield self._coordinator

    def append(self, entries: list[Entry]) -> None:
        """Write entries that the coordinator has applied; inside ``current`` only. On disk when this returns."""
        if not entries:
            return
        if not self._read_bytes:
            head = {"kind": "world", "format": FORMAT, "id": uuid.uuid4().hex, "about": dict(self._about)}
            self._first_line = json.dumps(head).encode() + b"\n"
        lines = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        data = lines if self._read_bytes else self._first_line + lines
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._read_bytes += len(data)

    def touch(self) -> None:
        """Note the time of a request in the file's modification time; inside ``current`` only."""
        if self._read_bytes:
            os.utime(self._path)

    def _start_over(self) -> None:
        if self._read_bytes:
            self._coordinator, self._read_bytes = ProbeCoordinator(prior=self._coordinator.observations.prior), 0

    def _apply_new_lines(self) -> None:
        if not os.path.lexists(self._path):
            self._start_over()
            return
        open_regular(self._path, MOST_BYTES).close()  # a pipe would wait for somebody to write
        with self._path.open("r+b") as file:
            if self._read_bytes and file.readline() != self._first_line:  # another process cleared it and began again
                self._start_over()
            file.seek(0)
            self._first_line = file.readline()
            file.seek(self._read_bytes)
            data = file.read()
            complete = data.rfind(b"\n") + 1
            if complete < len(data):
                file.truncate(self._read_bytes + complete)
        _replay(data[:complete], self._coordinator)
        self._read_bytes += complete


def parse_entries(data: bytes) -> Iterator[Entry]:
    """The entries in complete lines; a damaged line is skipped, and what it held is measured again."""
    for line in data.split(b"\n"):
        entry = json_object(line)
        if entry.get("kind") in ("told", "lease"):
            yield entry


def _replay(data: bytes, coordinator: ProbeCoordinator) -> None:
    """Apply the entries; one that is none, such as half of two lines, is skipped like a damaged line."""
    for entry in parse_entries(data):
        with suppress(TypeError, ValueError, KeyError, AttributeError):
            coordinator.apply(entry)


def read_about(path: Path) -> Mapping[str, Any]:
    """What the memory key of a file consists of; empty if the first line does not say so."""
    with open_regular(path, MOST_BYTES) as file:
        first_line = file.readline()
    about = json_object(first_line).get("about")
    return about if isinstance(about, dict) else {}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """One file of the cache, for people."""

    memory_key: str
    about: Mapping[str, Any]
    configurations: int
    probes: int
    out_of_memory: int
    last_used: float
    """When a size was last requested, in seconds since the epoch."""


def default_folder() -> Path:
    """The folder of the cache: what ``VLMPROF_BATCH_SIZES`` names, else a folder of the user's cache folder."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "vlmprof" / "batch_sizes"


def open_cache_file(folder: Path, memory_key: str, about: Mapping[str, Any]) -> CacheFile:
    """The file of a memory key, with the measurements of its stale relatives as a prior."""
    return CacheFile(folder / f"{memory_key}{SUFFIX}", about, ProbeCoordinator(prior=_prior(folder, memory_key)))


def summaries(folder: Path) -> Iterator[CacheSummary]:
    """Every file, the last used first."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: -path.stat().st_mtime):
        records = _replayed(path).observations.configurations.values()
        yield CacheSummary(
            memory_key=path.stem,
            about=read_about(path),
            configurations=len(records),
            probes=sum(len(record.peaks) + len(record.failures) for record in records),
            out_of_memory=sum(len(record.failures) for record in records),
            last_used=path.stat().st_mtime,
        )


def clear(folder: Path, prefix: str) -> list[str]:
    """Delete the files whose memory key begins with ``prefix``; returns the keys."""
    paths = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if path.stem.startswith(prefix)]
    for path in paths:
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)
    return [path.stem for path in paths]


def add_missing(folder: Path, files: Mapping[str, bytes]) -> None:
    """Add cache files where the folder has none of that name.

    Args:
        folder: Of the cache; made if it does not exist.
        files: File name -> content. Names that are no file name of a cache are left out.
    """
    for name, data in files.items():
        if Path(name).name != name or not name.endswith(SUFFIX):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.{uuid.uuid4().hex[:8]}"
        partial.write_bytes(data)
        with suppress(FileExistsError):  # a link, unlike a rename, never replaces an existing file
            (folder / name).hardlink_to(partial)
        partial.unlink()


def files_used(folder: Path, since: float) -> dict[str, bytes]:
    """File name -> content, complete lines only, of the cache files that were used since a time."""
    files = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.stat().st_mtime >= since:
            data = read_regular(path, MOST_BYTES)
            files[path.name] = data[: data.rfind(b"\n") + 1]
    return files


def _prior(folder: Path, memory_key: str) -> dict[str, list[MemoryPoint]]:
    device_and_model = memory_key.split("-", maxsplit=1)[0]
    stale = [path for path in folder.glob(f"{device_and_model}-*{SUFFIX}") if path.stem != memory_key]
    newest = max(stale, key=lambda path: path.stat().st_mtime, default=None)
    return _replayed(newest).observations.points() if newest else {}


def _replayed(path: Path) -> ProbeCoordinator:
    coordinator = ProbeCoordinator()
    with suppress(OSError):  # no file, or a file of no sensible size: nothing is known
        _replay(read_regular(path, MOST_BYTES), coordinator)
    return coordinator


class SharedCache(Protocol):
    """The part of a batch sizer that exchanges cache files; see ``batch_size.sizer.BatchSizer``."""

    def adopt(self, files: Mapping[str, bytes]) -> float: ...
    def used(self, since: float) -> Mapping[str, bytes]: ...


@contextmanager
def kept_with_results(results: Where, cache: SharedCache) -> Iterator[None]:
    """Copy cache files from a results folder to the cache before a ``with`` block, and the used ones back after it."""
    folder = results_folder(results)
    stored = {name: folder.read(f"{IN_RESULTS}/{name}", MOST_BYTES) for name in folder.names(IN_RESULTS)}
    since = cache.adopt({name: data for name, data in stored.items() if data is not None})
    try:
        yield
    finally:
        with suppress(OSError):  # full or gone: what stops the sweep reports it, and the cache has the files anyway
            _write(folder, cache.used(since))


def _write(folder: ResultsFolder, files: Mapping[str, bytes]) -> None:
    if ledger.exists(folder):  # a results folder that was removed is not made again
        for name, data in files.items():
            folder.write(f"{IN_RESULTS}/{name}", data)
