"""What is known of every configuration of one world. Only what was told; nothing is derived and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

from vlmprof.batch_size.memory_model import MemoryPoint
from vlmprof.batch_size.protocol import Demand, ProbeResult, covers

MARGIN = 0.0275
"""Share of the usable memory that a worst-case batch must leave: the same batch never takes quite the same twice."""
STRIKE = 0.03
"""Added to the margin of a configuration each time a batch of its score pass ran out of memory."""
WHOLE = "whole"
"""The phase of a batch whose phases were not told apart."""
NEGLIGIBLE = 0.01
"""Of what the whole batch takes: a phase that takes less is taken for so much."""
SAME_ROOM = 0.98
"""A failure bounds later batches that have at most this much more room: with more, it says nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSize:
    """A size that did not fit."""

    size: int
    usable_bytes: int | None
    """What the process might have taken then."""


def _holds(refusal: FailedSize, usable_bytes: int | None) -> bool:
    """Whether a failure of then says anything about now."""
    if refusal.usable_bytes is None or usable_bytes is None:
        return True
    return refusal.usable_bytes >= SAME_ROOM * usable_bytes


@final
@dataclass(slots=True)
class ConfigurationRecord:
    """One configuration."""

    demand: Demand
    peaks: dict[int, int] = field(default_factory=dict)
    """Size that ran with worst-case inputs -> bytes at its peak, the largest ever seen."""
    phases: dict[int, dict[str, int]] = field(default_factory=dict)
    """The same sizes -> bytes at the peak of each phase, the largest ever seen; of what is told as a whole, one."""
    seconds: dict[int, float] = field(default_factory=dict)
    """The same sizes -> how long the whole batch took, the shortest ever seen."""
    unmeasured: int = 0
    """Largest size that ran where memory cannot be measured."""
    refusals: list[FailedSize] = field(default_factory=list)
    size_limit: int | None = None
    """A size that a kernel cannot index, however much memory there is."""
    strikes: int = 0

    def limit(self, usable_bytes: int) -> float:
        """What a worst-case batch may take."""
        return usable_bytes * (1 - MARGIN - STRIKE * self.strikes)

    def refused(self, usable_bytes: int | None) -> int | None:
        """The smallest size that does not fit into so much."""
        sizes = [self.size_limit] if self.size_limit else []
        sizes += [one.size for one in self.refusals if _holds(one, usable_bytes)]
        return min(sizes, default=None)

    def phase_peaks(self) -> Iterator[tuple[int, str, int]]:
        """(size, phase, bytes) of every worst-case batch that ran."""
        return ((size, phase, peak) for size, seen in self.phases.items() for phase, peak in seen.items())

    def safe(self, usable_bytes: int, most: int) -> int:
        """The largest size that ran, stays within the limit and is at most ``most``; 0 when none did."""
        limit, refused = self.limit(usable_bytes), self.refused(usable_bytes) or math.inf
        fits = (size for size, peak in self.peaks.items() if peak <= limit and size < refused and size <= most)
        return max(fits, default=0)


@final
@dataclass(slots=True)
class Observations:
    """All configurations of a world."""

    known: dict[str, ConfigurationRecord] = field(default_factory=dict)
    surprises: list[float] = field(default_factory=list)
    """For every probe that was predicted: (peak - predicted) / (peak - floor)."""
    floor_bytes: int = 0
    """What a process holds without any batch, the latest."""
    prior: Mapping[str, list[MemoryPoint]] = field(default_factory=dict)
    """Of a world that differs in versions only: expectations to start from, nothing to answer with."""
    ids: set[str] = field(default_factory=set)

    def points(self) -> dict[str, list[MemoryPoint]]:
        """Phase -> every worst-case batch that ran, the newest configurations last."""
        found: dict[str, list[MemoryPoint]] = {}
        for known in self.known.values():
            for size, phase, peak in known.phase_peaks():
                least = max(NEGLIGIBLE * (known.peaks[size] - self.floor_bytes), 1.0)
                grown = max(float(peak - self.floor_bytes), least)
                found.setdefault(phase, []).append(MemoryPoint(demand=known.demand, size=size, grown=grown))
        return found

    def times(self) -> list[MemoryPoint]:
        """The same, how long they took in the place of what they took."""
        return [
            MemoryPoint(demand=known.demand, size=size, grown=max(seconds, 1e-6))
            for known in self.known.values()
            for size, seconds in known.seconds.items()
        ]

    def of(self, configuration: str, demand: Demand) -> ConfigurationRecord:
        """What is known of a configuration, made when nothing is."""
        return self.known.setdefault(configuration, ConfigurationRecord(demand))

    def covering(self, demand: Demand) -> Iterator[ConfigurationRecord]:
        """Every configuration that needs at least as much."""
        return (known for known in self.known.values() if covers(known.demand, demand))

    def covered(self, demand: Demand) -> Iterator[ConfigurationRecord]:
        """Every configuration that needs at most as much."""
        return (known for known in self.known.values() if covers(demand, known.demand))

    def add(self, told: ProbeResult) -> bool:
        """Take an event in; False when it was known already."""
        if told.id in self.ids:
            return False
        self.ids.add(told.id)
        known = self.of(told.configuration, told.demand)
        if told.outcome == "size_limit":
            known.size_limit = min(told.size, known.size_limit or told.size)
        elif told.outcome == "out_of_memory":
            known.refusals.append(FailedSize(size=told.size, usable_bytes=told.usable_bytes))
            self._note_surprise(told, told.usable_bytes)  # by how much it was off is not known: by this at least
            known.strikes += not told.worst_case and told.usable_bytes is not None
        else:
            self._add_run(known, told)
        return True

    def _add_run(self, known: ConfigurationRecord, told: ProbeResult) -> None:
        peak = told.peak_bytes
        if peak is None:
            known.unmeasured = max(known.unmeasured, told.size)
            return
        if told.worst_case:
            self._note_surprise(told, peak)
            self.floor_bytes = told.floor_bytes
            if told.seconds > 0:
                known.seconds[told.size] = min(told.seconds, known.seconds.get(told.size, math.inf))
            seen = known.phases.setdefault(told.size, {})
            for phase, most in told.phases or ((WHOLE, peak),):
                seen[phase] = max(most, seen.get(phase, 0))
        if told.worst_case or told.size in known.peaks:
            known.peaks[told.size] = max(peak, known.peaks.get(told.size, 0))

    def _note_surprise(self, told: ProbeResult, peak: int | None) -> None:
        if told.predicted_bytes and peak is not None and peak > told.floor_bytes:
            self.surprises.append((peak - told.predicted_bytes) / (peak - told.floor_bytes))
