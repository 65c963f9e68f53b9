"""What one timing session gave: generations in blocks, and what was learnt beside them. Values only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.measure.energy import Energy
from vlmprof.measure.hostbound import HostBound
from vlmprof.measure.memory import Peak
from vlmprof.records import Generation, Stage, StageTimes

REDONE_IN_A_ROW = 3
"""After so many disturbed blocks in a row the cause is there to stay: they count, and the row says so."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One timed generation."""

    session: int
    block: int
    repeat: int
    """Number in the session, from 0; -1 for a canary."""
    request: int
    generations: tuple[Generation, ...]
    stages: StageTimes
    redone: int
    """Generations thrown away because their stages did not add up."""
    disturbed: str = ""
    """By what its block was; empty: by nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some repeats in a row, and the canary after them."""

    timed: tuple[Timed, ...]
    canary: Timed | None
    disturbed: str
    clock_mhz: int | None
    power_limited: bool

    @property
    def repeats_ms(self) -> list[float]:
        """End to end, mean over the requests of each repeat."""
        by_repeat: dict[int, list[float]] = {}
        for one in self.timed:
            by_repeat.setdefault(one.repeat, []).append(one.stages.end_to_end_ms)
        return [statistics.fmean(values) for values in by_repeat.values()]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All that was timed with one loaded model."""

    blocks: tuple[Block, ...]
    stopped: str
    """``precision``, ``max_repeats`` or ``max_seconds``."""
    warmup_repeats: int
    warm: bool
    """Whether warm-up settled."""
    waited_s: float
    peak: Peak | None
    energy: Energy | None
    energy_missing: str
    operations: dict[Stage, int] | None
    """FLOP by stage of request 0, one decode step; None on a CPU."""
    decode_bytes: int | None
    """Weights that a step reads at least; None on a CPU."""
    host_bound: HostBound | None

    @property
    def kept(self) -> tuple[Block, ...]:
        """The blocks that the estimates are made of; see ``kept_blocks``."""
        return kept_blocks(self.blocks)


def kept_blocks(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The undisturbed blocks; all of them where the disturbance was there to stay."""
    clean = tuple(block for block in blocks if not block.disturbed)
    standing = any(
        all(block.disturbed for block in blocks[i : i + REDONE_IN_A_ROW])
        for i in range(len(blocks) - REDONE_IN_A_ROW + 1)
    )
    return tuple(blocks) if standing else clean
