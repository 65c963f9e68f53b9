"""Processes by the mark in their environment, which children inherit however deep they lie and whoever adopts them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

MARK = "VLMPROF_FAULTS"
"""Name of the environment variable; its value is one run of the harness."""

ROLES = {"ray::CollectorActor": "collector", "ray::SizerActor": "sizer"}
NO_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::JobSupervisor")


def marked(value: str) -> Iterator[psutil.Process]:
    """All running processes that carry the mark, this one left out."""
    entry = f"{MARK}={value}".encode()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with suppress(OSError, psutil.Error):
            with open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123 (a Path would be built a thousand times)
                found = entry in file.read().split(b"\0")
            if found and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def workers(value: str) -> dict[str, list[psutil.Process]]:
    """Marked processes that Ray has given work, by role: ``collector``, ``sizer``, ``worker`` for a trial's process.

    Ray titles a process ``ray::<class or name>.<method>``; a trial's may carry any name.
    """
    found: dict[str, list[psutil.Process]] = {"collector": [], "sizer": [], "worker": []}
    for process in marked(value):
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and not title.startswith(NO_WORK):
                role = next((role for start, role in ROLES.items() if title.startswith(start)), "worker")
                found[role].append(process)
    return {role: sorted(there, key=lambda process: process.pid) for role, there in found.items()}


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether it was still there."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def left(value: str, patience_s: float) -> list[str]:
    """What still runs after so long: command lines, empty as soon as there is none."""
    deadline = time.monotonic() + patience_s
    while True:
        alive = []
        for process in marked(value):
            with suppress(psutil.Error):
                alive.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)


def end(value: str) -> None:
    """SIGKILL to whatever still carries the mark: the last thing that a harness does."""
    for process in marked(value):
        kill(process)
