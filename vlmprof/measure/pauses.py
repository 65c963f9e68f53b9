"""``PauseWatch``: how long this process stood still, because somebody stopped it (SIGSTOP, a frozen container).

The kernel keeps no account of that time: a stopped thread neither runs nor waits for a processor. So a thread of this
process ticks, and a tick that comes too late is a pause, unless the thread can say what else held it up: a processor
that it waited for, or the interpreter's lock, for which a thread wakes every few milliseconds while it waits. A stopped
thread wakes for neither.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self, final

TICK_S = 0.02
LEAST_PAUSE_S = 0.03
"""A tick that is later by less is a matter of the scheduler."""
_SCHEDSTAT = Path("/proc/thread-self/schedstat")


@final
class PauseWatch:
    """Counts the pauses of this process inside a ``with`` block."""

    def __init__(self) -> None:
        self._asked, self._answered, self._over = threading.Event(), threading.Event(), False
        self._paused_s = 0.0
        self._thread = threading.Thread(target=self._tick, name="vlmprof-pauses", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._asked.set()
        self._thread.join()

    def paused_ns(self) -> int:
        """Nanoseconds that the process stood still, from the start until now; a pause that has just ended counts."""
        self._answered.clear()
        self._asked.set()
        self._answered.wait()
        return int(self._paused_s * 1e9)

    def _tick(self) -> None:
        with ExitStack() as stack:
            # The file stays open: each call of the operating system gives the interpreter's lock away, and where other
            # threads want it, it comes back only after several of their turns, which would have to be estimated.
            schedstat = stack.enter_context(_SCHEDSTAT.open("rb", buffering=0)) if _SCHEDSTAT.is_file() else None
            self._watch(None if schedstat is None else schedstat.fileno())

    def _watch(self, schedstat: int | None) -> None:
        last = _Tick.now(schedstat)
        while not self._over:
            self._asked.wait(TICK_S)
            if asked := self._asked.is_set():
                self._asked.clear()
            tick = _Tick.now(schedstat)
            late_s = tick.unexplained_s(last) - TICK_S
            if late_s > LEAST_PAUSE_S:
                self._paused_s += late_s
            last = tick
            if asked:
                self._answered.set()


@final
class _Tick(NamedTuple):
    at_s: float
    waited_s: float
    """Time that this thread was ready to run and had no processor; 0 where the kernel does not count it."""
    wakes: int
    """How often this thread has given up the processor by itself."""

    @classmethod
    def now(cls, schedstat: int | None) -> _Tick:
        waited_s = 0.0 if schedstat is None else int(os.pread(schedstat, 64, 0).split()[1]) / 1e9
        # Reading a file gives the interpreter's lock away; the next two lines do not, so they belong together.
        wakes = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if sys.platform == "linux" else 0
        return cls(time.monotonic(), waited_s, wakes)

    def unexplained_s(self, last: _Tick) -> float:
        """Time since the last tick in which this thread waited neither for a processor nor for the lock."""
        # A wait for the interpreter's lock is cut into pieces of the switch interval, each of which is a wake.
        lock_s = 1.5 * sys.getswitchinterval() * max(0, self.wakes - last.wakes - 2)
        return self.at_s - last.at_s - (self.waited_s - last.waited_s) - lock_s
