"""How much GPU memory this process may reserve now, and how much it has reserved. Not measured on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import final

import torch

from vlmprof.measure.attempt import attempted
from vlmprof.measure.memory import reset_peak
from vlmprof.records import Stage

PHASES: Mapping[Stage, str] = {
    "transfer": "vision",
    "vision": "vision",
    "connector": "vision",
    "prefill": "prefill",
    "decode": "decode",
}
"""Stage of a generation -> its phase. The stages of one phase use memory for the same purpose."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHeadroom:
    """Bytes, as torch's caching allocator counts them."""

    usable_bytes: int
    """The most that the allocator may reserve: the device less what other processes and the context use, or the cap
    that is set."""
    held_bytes: int
    """What it has reserved already, included in ``usable_bytes``."""
    total_bytes: int


def read_headroom(device: str) -> MemoryHeadroom | None:
    """The headroom of this process; None on a CPU. Free cached memory first, else it counts as held."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    cap = int(torch.cuda.get_per_process_memory_fraction(_device_index(device)) * total)
    return MemoryHeadroom(usable_bytes=min(free + held, cap), held_bytes=held, total_bytes=total)


@contextmanager
def memory_capped(device: str, headroom: MemoryHeadroom, share: float) -> Iterator[None]:
    """Cap this process at a share of its headroom inside a ``with`` block; beyond it, torch raises OutOfMemoryError."""
    index = _device_index(device)
    before = torch.cuda.get_per_process_memory_fraction(index)
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * headroom.usable_bytes / headroom.total_bytes), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, index)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTaken:
    """Peak memory in bytes since ``measure.memory.reset_peak``."""

    needed: int
    """``in_use``, and the unused parts of partly used allocator blocks, which cannot be freed."""
    in_use: int
    """Allocated to tensors."""


@final
class PhasePeaks:
    """A ``Clock`` that reads memory instead of time: the peak memory of each phase of a generation.

    It need not synchronize with the device: memory is allocated and freed on the host, when work is queued. Where a
    reading fails the generation goes on, and there are no peaks.
    """

    def __init__(self, device: str) -> None:
        """Nothing has been measured."""
        self._device = device
        self._before = MemoryTaken(needed=0, in_use=0)
        self._needed = 0
        self._in_use: dict[str, int] = {}
        self.missing: dict[str, str] = {}
        """``memory_headroom`` -> why a reading failed."""

    def start(self) -> None:
        """Start measuring a generation."""
        self.missing.clear()
        attempted("memory_headroom", self.missing, self._begin)

    def mark(self, stage: Stage) -> None:
        """Assign the peak since the last mark to the phase of ``stage``."""
        if not self.missing:
            attempted("memory_headroom", self.missing, partial(self._read, PHASES.get(stage)))

    def _begin(self) -> None:
        reset_peak(self._device)
        self._before, self._needed, self._in_use = read_memory_taken(self._device), 0, {}

    def _read(self, phase: str | None) -> None:
        if phase is not None:
            taken = read_memory_taken(self._device)
            self._needed = max(taken.needed, self._needed)
            self._in_use[phase] = max(taken.in_use, self._in_use.get(phase, 0))
        reset_peak(self._device)

    def stop(self) -> None:
        """Nothing is timed."""

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Phase -> its peak in bytes; the largest of them is what the generation needed. Empty if a reading failed.

        The memory that one phase needs cannot be read directly: parts of the allocator blocks of the phase before are
        still reserved, and a smaller phase would seem to need as much as a larger one before it. So a phase is counted
        by the bytes in use beyond those at the start, scaled by the generation's overall ratio of needed to used bytes.
        """
        if self.missing:
            return {}
        growth = max(self._in_use.values(), default=0) - self._before.in_use
        ratio = (self._needed - self._before.needed) / growth if growth > 0 else 0.0
        growth_by_phase = {phase: in_use - self._before.in_use for phase, in_use in self._in_use.items()}
        return {phase: self._before.needed + round(ratio * more) for phase, more in growth_by_phase.items()}


def _device_index(device: str) -> int:
    """The index of a device: these functions of torch, unlike most, refuse ``cuda`` without one."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def read_memory_taken(device: str) -> MemoryTaken:
    """Peak memory since ``measure.memory.reset_peak``.

    Wholly unused cached blocks are not counted: when memory is short the allocator frees them and tries again.
    """
    in_use = torch.cuda.max_memory_allocated(device)
    fragmented = torch.cuda.memory_stats(device).get("inactive_split_bytes.all.peak", 0)
    return MemoryTaken(needed=int(min(torch.cuda.max_memory_reserved(device), in_use + fragmented)), in_use=int(in_use))
