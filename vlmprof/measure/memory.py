"""Peak device memory of some work. On a CPU the memory of one model cannot be measured reliably; none is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Peak memory since the last reset, and the size of the device's memory."""

    peak_bytes: int
    """Largest amount reserved by this process."""
    device_bytes: int
    """``peak_bytes`` and all else in use on the device: contexts, libraries, captured graphs, other processes."""
    total_bytes: int


def reset_peak(device: str) -> None:
    """Start a new measurement of the peak."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> Peak | None:
    """The peak since ``reset_peak``; None on a CPU.

    Reserved, not allocated: what the caching allocator has taken from the device is not available to another process or
    to a larger batch.
    """
    if not device.startswith("cuda"):
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    peak = torch.cuda.max_memory_reserved(device)
    free, capacity = torch.cuda.mem_get_info(device)
    other_bytes = capacity - free - torch.cuda.memory_reserved(device)
    return Peak(peak_bytes=peak, device_bytes=peak + other_bytes, total_bytes=total)
