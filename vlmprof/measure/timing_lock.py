"""One timing pass at a time on a host: trials of other GPUs share its processors, memory and buses.

An advisory lock on a file, which the kernel lets go of when its holder ends, however it ends: a dead holder blocks
nobody. Limits: it holds trials of one user on one machine apart, not those of other users, containers or programs;
these are found by what they do (``measure.disturbance``).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

ASK_AGAIN_S = 0.05
TELL_EVERY_S = 5.0


def lock_path() -> Path:
    """The file of this user on this host."""
    return Path(tempfile.gettempdir()) / f"vlmprof-timing-{os.getuid()}.lock"


@contextmanager
def exclusive_timing(exclusive: bool, waiting: Callable[[float], None], path: Path | None = None) -> Iterator[float]:
    """Hold the host's timing lock while the block lasts; gives the seconds that were waited for it.

    Args:
        exclusive: False takes no lock and waits for nobody.
        waiting: Told now and then for how many seconds it has been waited.
        path: Of the lock; None for the host's.
    """
    if not exclusive:
        yield 0.0
        return
    lock = FileLock(str(path or lock_path()), mode=0o600)
    began = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=TELL_EVERY_S, poll_interval=ASK_AGAIN_S)
            break
        except Timeout:
            waiting(time.monotonic() - began)
    try:
        yield time.monotonic() - began
    finally:
        lock.release()
