"""Ends a process whose trial hangs: Ray would wait for ever. Imports no ray.

Two layers. A thread looks whether the trial has come along; if not for ``timeout_s`` it says where the process hangs
and ends it. A thread of the interpreter's own C code (``faulthandler``) does the same where no Python runs any more,
because a native call holds the interpreter's lock: the first thread puts it off as long as it runs itself.

Limits: a process that the kernel will not end (a dead network mount) or has stopped is not ended by itself.
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
"""As of ``timeout`` of the shell."""
STDERR = 2
"""As a number: what Python calls by this name may be a logger's."""
LOOKS = 8
"""In the time a trial is given."""
PATIENT: frozenset[Phase] = frozenset({"wait"})
"""Phases in which others come along: whoever times holds the host, and is watched itself."""


@final
class Watchdog:
    """Watches one trial after another; a context manager around each."""

    def __init__(self, timeout_s: float | None, tell: Callable[[str], None]) -> None:
        """Nothing is watched yet.

        Args:
            timeout_s: How long a trial may go without progress; None: for ever.
            tell: Told why, before the process ends.
        """
        self._timeout_s, self._tell = timeout_s, tell
        self._progress = Progress(phase="load", done=0, total=1)
        self._since = time.monotonic()
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, progress: Progress) -> None:
        """The trial comes along."""
        self._progress, self._since = progress, time.monotonic()

    def __enter__(self) -> Watchdog:
        self._over, self._watched = threading.Event(), threading.get_ident()
        self.beat(Progress(phase="load", done=0, total=1))
        if self._timeout_s is not None:
            self._put_off(self._timeout_s)
            self._thread = threading.Thread(target=self._watch, args=(self._timeout_s, self._over), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()  # it may be putting off
            self._thread = None
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, timeout_s: float, over: threading.Event) -> None:
        while not over.wait(timeout_s / LOOKS):
            if time.monotonic() - self._since > timeout_s and self._progress.phase not in PATIENT:
                self._end(timeout_s)
            self._put_off(timeout_s)

    @staticmethod
    def _put_off(timeout_s: float) -> None:
        faulthandler.dump_traceback_later(timeout_s * (1 + 2 / LOOKS), exit=True, file=STDERR)

    def _end(self, timeout_s: float) -> None:
        frame = sys._current_frames().get(self._watched)
        where = traceback.extract_stack(frame)[-1] if frame else None
        at = f", at {where.filename}:{where.lineno} in {where.name}" if where else ""
        traceback.print_stack(frame, file=sys.__stderr__)
        try:
            self._tell(f"{TIMED_OUT}: no progress for {timeout_s:g} s while '{self._progress.phase}'{at}")
        finally:
            os._exit(EXIT_CODE)
