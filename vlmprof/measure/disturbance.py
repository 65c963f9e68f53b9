"""Whether a stretch of timing was disturbed, judged by causes and never by how long it took.

Dropping slow values would make every machine look quiet. What is looked for: thermal throttling and power brakes, a
fallen clock, another process on the GPU, memory that somebody else took, an allocator that had to ask again, a thread
that waited for a processor, a host that was taken away by its hypervisor. The load average is not among them: it
remembers a minute, and a stretch is shorter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from vlmprof.measure.nvml import Gpu, GpuReading

WAITED_SHARE = STOLEN_SHARE = 0.02
CLOCK_SHARE = 0.95
FOREIGN_BYTES = 64 * 2**20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DisturbanceReading:
    """One look at everything."""

    at_ns: int
    waited_ns: int | None
    """That this thread was ready to run and had no processor."""
    stolen_ticks: int | None
    all_ticks: int | None
    gpu: GpuReading | None
    alloc_retries: int
    foreign_bytes: int
    """Used on the GPU and not reserved by this process."""


def read(device: str, gpu: Gpu | None) -> DisturbanceReading:
    """All counters now."""
    stolen, total = _ticks()
    on_gpu = device.startswith("cuda")
    retries = int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)) if on_gpu else 0
    return DisturbanceReading(
        at_ns=time.monotonic_ns(),
        waited_ns=_waited(),
        stolen_ticks=stolen,
        all_ticks=total,
        gpu=gpu.read() if gpu else None,
        alloc_retries=retries,
        foreign_bytes=_foreign(device) if on_gpu else 0,
    )


def causes(before: DisturbanceReading, after: DisturbanceReading, usual_clock_mhz: float | None = None) -> str:
    """What disturbed the stretch between two readings, in words; empty where nothing did.

    Args:
        before: At its start.
        after: At its end.
        usual_clock_mhz: The SM clock of undisturbed stretches; None for the first.
    """
    return ", ".join([*_on_host(before, after), *_on_gpu(before, after, usual_clock_mhz)])


def _on_host(before: DisturbanceReading, after: DisturbanceReading) -> Iterator[str]:
    wall = max(1, after.at_ns - before.at_ns)
    if before.waited_ns is not None and after.waited_ns is not None:
        share = (after.waited_ns - before.waited_ns) / wall
        if share > WAITED_SHARE:
            yield f"waited for a processor ({share:.0%})"
    if before.stolen_ticks is not None and after.stolen_ticks is not None:
        share = (after.stolen_ticks - before.stolen_ticks) / max(1, (after.all_ticks or 0) - (before.all_ticks or 0))
        if share > STOLEN_SHARE:
            yield f"processor time stolen ({share:.0%})"


def _on_gpu(before: DisturbanceReading, after: DisturbanceReading, usual_clock_mhz: float | None) -> Iterator[str]:
    if after.alloc_retries > before.alloc_retries:
        yield "the allocator had to ask again"
    if abs(after.foreign_bytes - before.foreign_bytes) > FOREIGN_BYTES:
        yield "somebody else's memory on the GPU changed"
    first, last = before.gpu, after.gpu
    if first is None or last is None:
        return
    if (last.throttled_ns or 0) > (first.throttled_ns or 0):
        yield "throttled"
    if usual_clock_mhz and last.sm_clock_mhz and last.sm_clock_mhz < CLOCK_SHARE * usual_clock_mhz:
        yield f"clock fell to {last.sm_clock_mhz} MHz"
    if foreign := _foreign_processes(last):
        yield f"{foreign} other process{'es' if foreign > 1 else ''} on the GPU"


def _foreign_processes(reading: GpuReading) -> int:
    """Others than this one. In a container the driver may know this process by another number: then one is ours."""
    return max(0, len(reading.processes or ()) - 1)


def _waited() -> int | None:
    """Second number of the thread's schedstat: nanoseconds on a run queue. None where the kernel does not keep it."""
    path = Path("/proc/thread-self/schedstat")
    return int(path.read_text().split()[1]) if path.is_file() else None


def _ticks() -> tuple[int | None, int | None]:
    path = Path("/proc/stat")
    if not path.is_file():
        return None, None
    ticks = [int(part) for part in path.read_text().splitlines()[0].split()[1:]]
    return (ticks[7], sum(ticks[:8])) if len(ticks) > 7 else (None, None)


def _foreign(device: str) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free - torch.cuda.memory_reserved(device))
