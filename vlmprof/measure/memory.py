"""Peak device memory of a stretch of work. On a CPU there is no honest per-model figure, and none is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most a stretch of work held, and what the device has."""

    peak_bytes: int
    """Reserved by this process."""
    device_bytes: int
    """The same and what else is used on the device: contexts, libraries, captured graphs, other processes."""
    total_bytes: int


def reset_peak(device: str) -> None:
    """Start a new stretch."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> Peak | None:
    """The peak since ``reset_peak``; None on a CPU.

    Reserved, not allocated: what the caching allocator took from the device is what a neighbour, or a larger batch,
    cannot have.
    """
    if not device.startswith("cuda"):
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    peak = torch.cuda.max_memory_reserved(device)
    free, whole = torch.cuda.mem_get_info(device)
    beside = whole - free - torch.cuda.memory_reserved(device)
    return Peak(peak_bytes=peak, device_bytes=peak + beside, total_bytes=total)
