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
class MemoryHeadroom:
    """Bytes, as torch's caching allocator counts them."""

    usable_bytes: int
    """What the allocator may reserve: the device less what others and the context hold, or the cap that is set."""
    held_bytes: int
    """What it has reserved already."""
    total_bytes: int


def read_headroom(device: str) -> MemoryHeadroom | None:
    """The room of this process; None on a CPU. Give back unused memory first, or it counts as held."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    cap = int(torch.cuda.get_per_process_memory_fraction(_numbered(device)) * total)
    return MemoryHeadroom(usable_bytes=min(free + held, cap), held_bytes=held, total_bytes=total)


@contextmanager
def memory_capped(device: str, room: MemoryHeadroom, share: float) -> Iterator[None]:
    """No more than this share of the room, for the length of a ``with`` block: a miss is an ordinary error of torch."""
    number = _numbered(device)
    before = torch.cuda.get_per_process_memory_fraction(number)
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * room.usable_bytes / room.total_bytes), number)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, number)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTaken:
    """The most of a stretch, in bytes, since ``measure.memory.reset_peak``."""

    needed: int
    """In use, and with it the free parts of blocks that are in use, which cannot be given back."""
    in_use: int


@final
class PhasePeaks:
    """A clock that reads memory and not time: the most that each phase of a generation needs.

    It need not wait for the device: memory is taken and given back on the host, when work is asked for.
    """

    def __init__(self, device: str) -> None:
        """Nothing has been seen."""
        self._device = device
        self._before = MemoryTaken(needed=0, in_use=0)
        self._needed = 0
        self._in_use: dict[str, int] = {}

    def start(self) -> None:
        """A generation begins now."""
        reset_peak(self._device)
        self._before, self._needed, self._in_use = read_memory_taken(self._device), 0, {}

    def mark(self, stage: Stage) -> None:
        """All since the last mark was of this stage."""
        phase = PHASES.get(stage)
        if phase is not None:
            taken = read_memory_taken(self._device)
            self._needed = max(taken.needed, self._needed)
            self._in_use[phase] = max(taken.in_use, self._in_use.get(phase, 0))
        reset_peak(self._device)

    def stop(self) -> None:
        """The generation is over; it was not timed."""

    @property
    def found(self) -> dict[str, int]:
        """Phase -> bytes at its peak; the largest of them is what the generation needed.

        What one phase needs cannot be read off by itself: the blocks of the phase before are still there, in parts, and
        a smaller phase would seem to need as much as a larger one before it. So a phase counts with what it has in use
        beyond the beginning, and with the same share on top of it that the generation as a whole could not use.
        """
        grown = max(self._in_use.values(), default=0) - self._before.in_use
        share = (self._needed - self._before.needed) / grown if grown > 0 else 0.0
        of_phases = {phase: in_use - self._before.in_use for phase, in_use in self._in_use.items()}
        return {phase: self._before.needed + round(share * more) for phase, more in of_phases.items()}


def _numbered(device: str) -> int:
    """These functions of torch, unlike most, do not take ``cuda`` for the current device."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def read_memory_taken(device: str) -> MemoryTaken:
    """Of the stretch until now.

    Whole cached blocks that nobody uses are not counted: when memory is short the allocator gives them back and tries
    again.
    """
    in_use = torch.cuda.max_memory_allocated(device)
    stuck = torch.cuda.memory_stats(device).get("inactive_split_bytes.all.peak", 0)
    return MemoryTaken(needed=int(min(torch.cuda.max_memory_reserved(device), in_use + stuck)), in_use=int(in_use))
