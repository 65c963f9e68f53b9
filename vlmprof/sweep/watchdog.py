"""Ends a process whose trial hangs: Ray would wait forever. Imports no ray.

Two layers. A thread checks whether the trial has progressed; if not for ``timeout_s``, it reports where the process
hangs and ends it. A thread in the interpreter's C code (``faulthandler``) does the same if no Python code can run,
because a native call holds the GIL: the first thread postpones it for as long as it runs itself.

Limits: a process that the kernel cannot end (a dead network mount) or has stopped is not ended.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import final

from vlmprof.store.attempts import TIMED_OUT
from vlmprof.trial.progress import Phase, Progress

EXIT_CODE = 124
"""The exit code of the shell's ``timeout``."""
STDERR = 2
"""A file descriptor, because ``sys.stderr`` may have been replaced by a logger."""
CHECKS_PER_TIMEOUT = 8
UNLIMITED: frozenset[Phase] = frozenset({"wait"})
"""Phases without a limit: the trial waits for another one's timing pass, which is watched itself."""


@final
class Watchdog:
    """Watches one trial after another; used as a context manager around each."""

    def __init__(self, timeout_s: float | None, report: Callable[[str], None]) -> None:
        """Nothing is watched yet.

        Args:
            timeout_s: How long a trial may go without progress; None: no limit.
            report: Called with the reason before the process ends.
        """
        self._timeout_s, self._report = timeout_s, report
        self._progress = Progress(phase="load", done=0, total=1)
        self._since = time.monotonic()
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, progress: Progress) -> None:
        """Note that the trial has progressed."""
        self._progress, self._since = progress, time.monotonic()

    def __enter__(self) -> Watchdog:
        self._over, self._watched = threading.Event(), threading.get_ident()
        self.beat(Progress(phase="load", done=0, total=1))
        if self._timeout_s is not None:
            self._postpone_dump(self._timeout_s)
            self._thread = threading.Thread(target=self._watch, args=(self._timeout_s, self._over), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()  # it may be postponing the dump right now
            self._thread = None
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, timeout_s: float, over: threading.Event) -> None:
        while not over.wait(timeout_s / CHECKS_PER_TIMEOUT):
            if time.monotonic() - self._since > timeout_s and self._progress.phase not in UNLIMITED:
                self._end(timeout_s)
            self._postpone_dump(timeout_s)

    @staticmethod
    def _postpone_dump(timeout_s: float) -> None:
        faulthandler.dump_traceback_later(timeout_s * (1 + 2 / CHECKS_PER_TIMEOUT), exit=True, file=STDERR)

    def _end(self, timeout_s: float) -> None:
        frame = sys._current_frames().get(self._watched)
        where = traceback.extract_stack(frame)[-1] if frame else None
        at = f", at {where.filename}:{where.lineno} in {where.name}" if where else ""
        traceback.print_stack(frame, file=sys.__stderr__)
        try:
            self._report(f"{TIMED_OUT}: no progress for {timeout_s:g} s while '{self._progress.phase}'{at}")
        finally:
            os._exit(EXIT_CODE)
