"""``BatchSizer``: the batch sizer with a clock and, unless it is private to one object, a cache on disk.

Ask what to do, do it, report the result; see docs/batch_size_optimization.md. Measurements are kept in the batch-size
cache, a folder that processes and sweeps share. Where memory cannot be measured (on a CPU) nothing is kept, and the
reply is the job's maximum until that fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, final

from vlmprof.batch_size.cache import CacheFile, add_missing, files_used, open_cache_file
from vlmprof.batch_size.coordinator import Entry, ProbeCoordinator
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest

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
            add_missing(self._folder, files)
        return now

    def used(self, since: float) -> Mapping[str, bytes]:
        """The cache files that were used since a time, as ``adopt`` takes them."""
        return files_used(self._folder, since) if self._folder is not None else {}

    def _current(
        self, memory_key: str, about: Mapping[str, Any], *, on_disk: bool
    ) -> AbstractContextManager[ProbeCoordinator]:
        if self._folder is None or not on_disk:
            return nullcontext(self._coordinators.setdefault(memory_key, ProbeCoordinator()))
        if memory_key not in self._files:
            self._files[memory_key] = open_cache_file(self._folder, memory_key, about)
        return self._files[memory_key].current()

    def _append(self, memory_key: str, entries: list[Entry]) -> None:
        if memory_key in self._files:
            self._files[memory_key].append(entries)
