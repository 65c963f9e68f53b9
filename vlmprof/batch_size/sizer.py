"""``BatchSizer``: which batch fits which configuration, with a clock and, where it is to last, files.

The logic is in ``batch_size``. Ask what to do, do it, tell what it did; see docs/batch_size_optimization.md. What is
measured is kept in the atlas, a folder that processes and sweeps share; where memory cannot be measured (on a CPU)
nothing is kept, and the job's maximum is the answer until it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, final

from vlmprof.batch_size.cache import CacheFile, adopt, opened, used
from vlmprof.batch_size.coordinator import Entry, ProbeCoordinator
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest

CLOCK_GRAIN_S = 0.02
"""File systems stamp files by a clock that moves in steps, up to 10 ms behind the one that programs read."""


@final
class BatchSizer:
    """The sizes of all configurations of all worlds. Safe to share between processes by its folder."""

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Nothing is read yet.

        Args:
            folder: The atlas; None keeps nothing beyond this object.
            clock: Seconds, the same for every process that shares the folder.
        """
        self._folder, self._clock = folder, clock
        self._books: dict[str, ProbeCoordinator] = {}
        self._journals: dict[str, CacheFile] = {}

    def ask(self, question: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        """What to do next: use a size, probe one, or wait.

        Args:
            question: Of one configuration.
            about: What its world is, for people.
        """
        lasting = question.usable_bytes is not None
        with self._current(question.world, about, lasting=lasting) as book:
            answer, entries = book.ask(question, self._clock())
            self._append(question.world, entries)
            if question.world in self._journals:
                self._journals[question.world].touch()
        return answer

    def renew(self, world: str, configuration: str, token: int) -> None:
        """The prober is alive."""
        with self._current(world, {}, lasting=True) as book:
            self._append(world, book.renew(configuration, token, self._clock()))

    def tell(self, told: ProbeResult) -> None:
        """A batch ran, or did not."""
        with self._current(told.world, {}, lasting=told.usable_bytes is not None) as book:
            self._append(told.world, book.tell(told))

    def adopt(self, worlds: Mapping[str, bytes]) -> float:
        """Take what was measured elsewhere, where nothing is known; returns the time, for ``used``."""
        now = time.time() - CLOCK_GRAIN_S
        if self._folder is not None:
            adopt(self._folder, worlds)
        return now

    def used(self, since: float) -> Mapping[str, bytes]:
        """What is known of the worlds that were asked about since a time, as ``adopt`` takes it."""
        return used(self._folder, since) if self._folder is not None else {}

    def _current(
        self, world: str, about: Mapping[str, Any], *, lasting: bool
    ) -> AbstractContextManager[ProbeCoordinator]:
        if self._folder is None or not lasting:
            return nullcontext(self._books.setdefault(world, ProbeCoordinator()))
        if world not in self._journals:
            self._journals[world] = opened(self._folder, world, about)
        return self._journals[world].current()

    def _append(self, world: str, entries: list[Entry]) -> None:
        if world in self._journals:
            self._journals[world].append(entries)
