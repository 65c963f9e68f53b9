"""How much of the device a process may take now, and how much it holds. On a CPU there is no honest figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes, as torch's caching allocator counts them."""

    usable_bytes: int
    """What the allocator may reserve: the device less what others and the context hold, or the cap that is set."""
    held_bytes: int
    """What it has reserved already."""
    total_bytes: int


def read_room(device: str) -> Room | None:
    """The room of this process; None on a CPU. Give back unused memory first, or it counts as held."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    cap = int(torch.cuda.get_per_process_memory_fraction(_numbered(device)) * total)
    return Room(usable_bytes=min(free + held, cap), held_bytes=held, total_bytes=total)


@contextmanager
def capped(device: str, room: Room, share: float) -> Iterator[None]:
    """No more than this share of the room, for the length of a ``with`` block: a miss is an ordinary error of torch."""
    number = _numbered(device)
    before = torch.cuda.get_per_process_memory_fraction(number)
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * room.usable_bytes / room.total_bytes), number)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, number)


def _numbered(device: str) -> int:
    """These functions of torch, unlike most, do not take ``cuda`` for the current device."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def needed_bytes(device: str) -> int:
    """The most that a stretch needed since ``measure.memory.reset_peak``.

    What was in use, and with it the free parts of blocks that are in use, which cannot be given back. Whole cached
    blocks that nobody uses are not counted: when memory is short the allocator gives them back and tries again.
    """
    stats = torch.cuda.memory_stats(device)
    stuck = stats.get("inactive_split_bytes.all.peak", 0)
    return int(min(torch.cuda.max_memory_reserved(device), torch.cuda.max_memory_allocated(device) + stuck))
