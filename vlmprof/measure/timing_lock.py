"""Allows one timing pass at a time on a host: trials on other GPUs share its processors, memory and buses. Where models
run on the processors themselves, nothing is scored during it either.

An advisory file lock, which the kernel releases when the process that holds it ends in any way: a crashed process
blocks no other. Limits: it separates trials of one user on one machine, not those of other users, containers or
programs; these are detected by their effects (``measure.disturbance``).
"""

from __future__ import annotations

import fcntl
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
    path = path or lock_path()
    lock = FileLock(str(path), mode=0o600)
    began = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=REPORT_EVERY_S, poll_interval=POLL_S)
            break
        except Timeout:
            waiting(time.monotonic() - began)
    try:
        with _work_lock(path, fcntl.LOCK_EX, waiting):
            yield time.monotonic() - began
    finally:
        lock.release()


@contextmanager
def working_outside_timing(on_cpu: bool, waiting: Callable[[float], None], path: Path | None = None) -> Iterator[None]:
    """Inside a ``with`` block this process computes, and no timing pass of this host begins; any number may compute.

    Args:
        on_cpu: False does nothing: what runs on a GPU of its own disturbs the times on another one little.
        waiting: As of ``exclusive_timing``, while a timing pass runs.
        path: As of ``exclusive_timing``.
    """
    if not on_cpu:
        yield
        return
    with _work_lock(path or lock_path(), fcntl.LOCK_SH, waiting):
        yield


@contextmanager
def _work_lock(path: Path, kind: int, waiting: Callable[[float], None]) -> Iterator[None]:
    """Shared by those who compute, exclusive for the one who times."""
    began = said = time.monotonic()
    descriptor = os.open(path.with_suffix(".work"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_S)
            if time.monotonic() - said > REPORT_EVERY_S:
                said = time.monotonic()
                waiting(said - began)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with a process that was forked meanwhile
        os.close(descriptor)
