"""``BatchSizer``: the batch sizer with a clock and, unless it is private to one object, a cache on disk.

Ask what to do, do it, report the result; see docs/batch_size_optimization.md. Measurements are kept in the batch-size
cache, a folder that processes and sweeps share. Where memory cannot be measured (on a CPU) nothing is kept, and the
reply is the job's maximum until that fails. Where the folder cannot be used (read-only, full, broken), one line of the
log says so and everything is kept in memory: no sweep fails for its cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

from filelock import Timeout

from vlmprof.batch_size.cache import FOLDER, CacheFile, add_missing, files_used, open_cache_file
from vlmprof.batch_size.coordinator import Entry, ProbeCoordinator
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest
from vlmprof.local_cache import do_without

CLOCK_GRAIN_S = 0.02
"""File systems stamp files by a clock that moves in steps, up to 10 ms behind the one that programs read."""


@final
class BatchSizer:
    """The batch sizes of all configurations, for all memory keys. Processes share one through its folder."""

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Nothing is read yet.

        Args:
            folder: Of the cache; None keeps everything in this object only.
            clock: Seconds, the same for every process that shares the folder.
        """
        self._folder, self._clock = folder, clock
        self._coordinators: dict[str, ProbeCoordinator] = {}
        self._files: dict[str, CacheFile] = {}

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        """What to do next: use a size, probe one, or wait.

        Args:
            request: For one configuration.
            about: What the memory key consists of, for people.

        Raises:
            filelock.Timeout: another process has held the file of the memory key for half a minute.
        """
        on_disk = request.usable_bytes is not None
        with self._current(request.memory_key, about, on_disk=on_disk) as coordinator:
            reply, entries = coordinator.ask(request, self._clock())
            self._append(request.memory_key, entries)
            if request.memory_key in self._files:
                with suppress(OSError):  # removed, or on a disk that became read-only
                    self._files[request.memory_key].touch()
        return reply

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        """Extend the lease of a trial that is still probing; raises as ``ask`` does."""
        with self._current(memory_key, {}, on_disk=True) as coordinator:
            self._append(memory_key, coordinator.renew(configuration, token, self._clock()))

    def tell(self, result: ProbeResult) -> None:
        """Take the result of a batch; raises as ``ask`` does."""
        on_disk = result.usable_bytes is not None
        with self._current(result.memory_key, {}, on_disk=on_disk) as coordinator:
            self._append(result.memory_key, coordinator.tell(result))

    def adopt(self, files: Mapping[str, bytes]) -> float:
        """Add cache files from elsewhere where there is none of that name; returns the time before, for ``used``.

        Args:
            files: File name -> content.
        """
        now = time.time() - CLOCK_GRAIN_S
        if self._folder is not None:
            try:
                add_missing(self._folder, files)
            except OSError as error:
                do_without(self._folder, error, FOLDER)
        return now

    def used(self, since: float) -> Mapping[str, bytes]:
        """The cache files that were used since a time, as ``adopt`` takes them."""
        try:
            return files_used(self._folder, since) if self._folder is not None else {}
        except OSError:
            return {}

    @contextmanager
    def _current(self, memory_key: str, about: Mapping[str, Any], *, on_disk: bool) -> Iterator[ProbeCoordinator]:
        with ExitStack() as opened:
            found = self._on_disk(memory_key, about, opened) if on_disk else None
            yield found or self._coordinators.setdefault(memory_key, ProbeCoordinator())

    def _on_disk(self, memory_key: str, about: Mapping[str, Any], opened: ExitStack) -> ProbeCoordinator | None:
        """The coordinator of a file, which stays locked; None where there are no files, or where this one cannot be."""
        if self._folder is None or memory_key in self._coordinators:
            return None
        try:
            if memory_key not in self._files:
                self._files[memory_key] = open_cache_file(self._folder, memory_key, about)
            return opened.enter_context(self._files[memory_key].current())
        except Timeout:
            raise
        except OSError as error:
            self._do_without(memory_key, error)
            return None

    def _append(self, memory_key: str, entries: list[Entry]) -> None:
        if memory_key not in self._files:
            return
        try:
            self._files[memory_key].append(entries)
        except OSError as error:
            self._do_without(memory_key, error)

    def _do_without(self, memory_key: str, error: OSError) -> None:
        """From now on keep what is known of a memory key in this object: the disk is full, read-only or broken."""
        file = self._files.pop(memory_key, None)
        self._coordinators[memory_key] = file.coordinator if file else ProbeCoordinator()
        assert self._folder is not None, "without a folder nothing is on disk"
        do_without(self._folder, error, FOLDER)
