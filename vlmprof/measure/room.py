"""How much of the device a process may take now, and how much it holds. On a CPU there is no honest figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch

from vlmprof.measure.memory import reset_peak
from vlmprof.records import Stage

PHASES: Mapping[Stage, str] = {
    "transfer": "vision",
    "vision": "vision",
    "connector": "vision",
    "prefill": "prefill",
    "decode": "decode",
}
"""Stage of a generation -> the phase that it counts to: what takes memory alike."""


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


@final
class PhasePeaks:
    """A clock that reads memory and not time: the most that each phase of a generation needs.

    It need not wait for the device: memory is taken and given back on the host, when work is asked for.
    """

    def __init__(self, device: str) -> None:
        """Nothing has been seen."""
        self._device = device
        self.found: dict[str, int] = {}
        """Phase -> bytes at its peak."""

    def start(self) -> None:
        """A generation begins now."""
        self.found = {}
        reset_peak(self._device)

    def mark(self, stage: Stage) -> None:
        """All since the last mark was of this stage."""
        phase = PHASES.get(stage)
        if phase is not None:
            self.found[phase] = max(needed_bytes(self._device), self.found.get(phase, 0))
        reset_peak(self._device)

    def stop(self) -> None:
        """The generation is over; it was not timed."""


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
