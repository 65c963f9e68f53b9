"""Whether a block of timed work was disturbed, judged by causes and never by how long it took.

Dropping slow values would make every machine look quiet. The causes: thermal throttling and power brakes, a drop of
the SM clock, another process on the GPU, a change of the memory that others use on it, a retry of torch's allocator,
a thread that waited for a processor, processor time that the hypervisor took, a process that was stopped for a while.
The load average is not used: it averages over a minute, and a block is shorter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from vlmprof.measure.nvml import Gpu, GpuReading
from vlmprof.measure.pauses import PauseWatch

WAITED_SHARE = STOLEN_SHARE = PAUSED_SHARE = 0.02
PAUSED = "the process was stopped"
"""The cause that is never taken as permanent: what it adds to a time has no bound."""
CLOCK_SHARE = 0.95
FOREIGN_BYTES = 64 * 2**20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DisturbanceReading:
    """One reading of all counters."""

    at_ns: int
    waited_ns: int | None
    """Time that this thread was ready to run but had no processor; None where the kernel does not count it."""
    stolen_ticks: int | None
    """Processor time taken by the hypervisor, in ticks of ``/proc/stat``; None where there is no such file."""
    all_ticks: int | None
    gpu: GpuReading | None
    alloc_retries: int
    foreign_bytes: int
    """Memory in use on the GPU that this process has not reserved."""
    paused_ns: int = 0
    """Time that the process was stopped; 0 where nobody watches."""


def read(device: str, gpu: Gpu | None, pauses: PauseWatch | None = None) -> DisturbanceReading:
    """Read all counters now."""
    stolen, total = _processor_ticks()
    on_gpu = device.startswith("cuda")
    retries = int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)) if on_gpu else 0
    return DisturbanceReading(
        at_ns=time.monotonic_ns(),
        waited_ns=_run_queue_ns(),
        stolen_ticks=stolen,
        all_ticks=total,
        gpu=gpu.read() if gpu else None,
        alloc_retries=retries,
        foreign_bytes=_foreign_bytes(device) if on_gpu else 0,
        paused_ns=pauses.paused_ns() if pauses else 0,
    )


def causes(before: DisturbanceReading, after: DisturbanceReading, usual_clock_mhz: float | None = None) -> str:
    """What disturbed the block between two readings, separated by commas; empty if nothing did.

    Args:
        before: The reading at its start.
        after: The reading at its end.
        usual_clock_mhz: The SM clock of undisturbed blocks; None for the first block.
    """
    return ", ".join([*_host_causes(before, after), *_gpu_causes(before, after, usual_clock_mhz)])


def _host_causes(before: DisturbanceReading, after: DisturbanceReading) -> Iterator[str]:
    elapsed_ns = max(1, after.at_ns - before.at_ns)
    if (share := (after.paused_ns - before.paused_ns) / elapsed_ns) > PAUSED_SHARE:
        yield f"{PAUSED} ({share:.0%})"
    if before.waited_ns is not None and after.waited_ns is not None:
        share = (after.waited_ns - before.waited_ns) / elapsed_ns
        if share > WAITED_SHARE:
            yield f"waited for a processor ({share:.0%})"
    if before.stolen_ticks is not None and after.stolen_ticks is not None:
        share = (after.stolen_ticks - before.stolen_ticks) / max(1, (after.all_ticks or 0) - (before.all_ticks or 0))
        if share > STOLEN_SHARE:
            yield f"processor time stolen ({share:.0%})"


def _gpu_causes(before: DisturbanceReading, after: DisturbanceReading, usual_clock_mhz: float | None) -> Iterator[str]:
    if after.alloc_retries > before.alloc_retries:
        yield "the CUDA allocator had to free memory and retry"
    if abs(after.foreign_bytes - before.foreign_bytes) > FOREIGN_BYTES:
        yield "memory of another process on the GPU changed"
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
    """Other processes on the GPU. One is subtracted for this process, which cannot be looked up by its id: in a
    container the driver may report another one.
    """
    return max(0, len(reading.processes or ()) - 1)


def _run_queue_ns() -> int | None:
    """Second number of the thread's schedstat: nanoseconds on a run queue. None where the kernel does not count it."""
    path = Path("/proc/thread-self/schedstat")
    return int(path.read_text().split()[1]) if path.is_file() else None


def _processor_ticks() -> tuple[int | None, int | None]:
    """Stolen and total processor time of the host, in ticks; None where the kernel does not count it."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None, None
    ticks = [int(part) for part in path.read_text().splitlines()[0].split()[1:]]
    return (ticks[7], sum(ticks[:8])) if len(ticks) > 7 else (None, None)


def _foreign_bytes(device: str) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free - torch.cuda.memory_reserved(device))
