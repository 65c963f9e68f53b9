"""Allows one timing pass at a time on a host: trials on other GPUs share its processors, memory and buses.

An advisory file lock, which the kernel releases when the process that holds it ends in any way: a crashed process
blocks no other. Limits: it separates trials of one user on one machine, not those of other users, containers or
programs; these are detected by their effects (``measure.disturbance``).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.05
REPORT_EVERY_S = 5.0


def lock_path() -> Path:
    """The lock file of this user on this host."""
    return Path(tempfile.gettempdir()) / f"vlmprof-timing-{os.getuid()}.lock"


@contextmanager
def exclusive_timing(exclusive: bool, waiting: Callable[[float], None], path: Path | None = None) -> Iterator[float]:
    """Hold the host's timing lock inside a ``with`` block; yields the seconds that were waited for it.

    Args:
        exclusive: False takes no lock and does not wait.
        waiting: Called every ``REPORT_EVERY_S`` seconds with the seconds waited so far.
        path: Lock file; None for that of this host and user.
    """
    if not exclusive:
        yield 0.0
        return
    lock = FileLock(str(path or lock_path()), mode=0o600)
    began = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=REPORT_EVERY_S, poll_interval=POLL_S)
            break
        except Timeout:
            waiting(time.monotonic() - began)
    try:
        yield time.monotonic() - began
    finally:
        lock.release()
