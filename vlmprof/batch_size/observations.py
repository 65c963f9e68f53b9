"""What was measured about every configuration of one memory key. Nothing derived is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

from vlmprof.batch_size.memory_model import MemoryPoint
from vlmprof.batch_size.protocol import Demand, ProbeResult, covers

MARGIN = 0.0275
"""Share of the usable memory that a worst-case batch must leave free: the same batch does not always take the same."""
MARGIN_PER_FAILURE = 0.03
"""Added to the margin of a configuration each time a batch of its score pass ran out of memory."""
WHOLE = "whole"
"""The phase of a batch whose phases were not measured one by one."""
NEGLIGIBLE = 0.01
"""Share of what the whole batch takes: a phase that takes less is counted as taking this much."""
SAME_MEMORY = 0.98
"""A failure counts for a later batch if the memory then was at least this share of the memory now."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSize:
    """A size that did not fit."""

    size: int
    usable_bytes: int | None
    """What the process was allowed to take then."""


def _applies(failure: FailedSize, usable_bytes: int | None) -> bool:
    """Whether an earlier failure shows that the size does not fit now."""
    if failure.usable_bytes is None or usable_bytes is None:
        return True
    return failure.usable_bytes >= SAME_MEMORY * usable_bytes


@final
@dataclass(slots=True)
class ConfigurationRecord:
    """What was measured about one configuration."""

    demand: Demand
    peaks: dict[int, int] = field(default_factory=dict)
    """Size that ran with worst-case inputs -> bytes at its peak above what the process held before, its floor; the
    largest measured. Floors differ from trial to trial: what is recorded for timing is held from then on."""
    phases: dict[int, dict[str, int]] = field(default_factory=dict)
    """The same sizes -> the same at the peak of each phase, the largest measured; only ``WHOLE`` without phases."""
    seconds: dict[int, float] = field(default_factory=dict)
    """The same sizes -> how long the whole batch took, the shortest measured."""
    largest_unmeasured: int = 0
    """Largest size that ran where memory cannot be measured."""
    failures: list[FailedSize] = field(default_factory=list)
    size_limit: int | None = None
    """A size that a kernel cannot index, however much memory there is."""
    score_failures: int = 0
    """How often a batch of a score pass ran out of memory."""

    def limit(self, usable_bytes: int) -> float:
        """The bytes that a worst-case batch may take."""
        return usable_bytes * (1 - MARGIN - MARGIN_PER_FAILURE * self.score_failures)

    def smallest_failure(self, usable_bytes: int | None) -> int | None:
        """The smallest size that is known not to fit into so much memory; None when there is none."""
        sizes = [self.size_limit] if self.size_limit else []
        sizes += [failure.size for failure in self.failures if _applies(failure, usable_bytes)]
        return min(sizes, default=None)

    def phase_peaks(self) -> Iterator[tuple[int, str, int]]:
        """(size, phase, bytes above the floor) of every worst-case batch that ran."""
        return ((size, phase, peak) for size, peaks in self.phases.items() for phase, peak in peaks.items())

    def safe(self, usable_bytes: int, floor_bytes: int, max_size: int) -> int:
        """The largest size up to ``max_size`` that ran and stays within the limit; 0 when none did."""
        limit = self.limit(usable_bytes) - floor_bytes
        failed = self.smallest_failure(usable_bytes) or math.inf
        fitting = (size for size, peak in self.peaks.items() if peak <= limit and size < failed and size <= max_size)
        return max(fitting, default=0)


@final
@dataclass(slots=True)
class Observations:
    """What was measured about all configurations of one memory key."""

    configurations: dict[str, ConfigurationRecord] = field(default_factory=dict)
    prediction_errors: list[float] = field(default_factory=list)
    """For every probe with a prediction: (peak - predicted) / (peak - floor)."""
    prior: Mapping[str, list[MemoryPoint]] = field(default_factory=dict)
    """Phase -> points of a memory key that differs in versions only: used in predictions, never as a reply."""
    ids: set[str] = field(default_factory=set)
    """Of the results so far."""

    def points(self) -> dict[str, list[MemoryPoint]]:
        """Phase -> every worst-case batch that ran, the newest configurations last."""
        points: dict[str, list[MemoryPoint]] = {}
        for record in self.configurations.values():
            for size, phase, peak in record.phase_peaks():
                amount = max(float(peak), NEGLIGIBLE * record.peaks[size])
                points.setdefault(phase, []).append(MemoryPoint(demand=record.demand, size=size, amount=amount))
        return points

    def times(self) -> list[MemoryPoint]:
        """The same batches, with the seconds they took as amounts."""
        return [
            MemoryPoint(demand=record.demand, size=size, amount=max(seconds, 1e-6))
            for record in self.configurations.values()
            for size, seconds in record.seconds.items()
        ]

    def covering(self, demand: Demand) -> Iterator[ConfigurationRecord]:
        """Every configuration that needs at least as much."""
        return (record for record in self.configurations.values() if covers(record.demand, demand))

    def covered(self, demand: Demand) -> Iterator[ConfigurationRecord]:
        """Every configuration that needs at most as much."""
        return (record for record in self.configurations.values() if covers(demand, record.demand))

    def add(self, result: ProbeResult) -> None:
        """Add a result; one that was added before changes nothing."""
        if result.id in self.ids:
            return
        self.ids.add(result.id)
        record = self.configurations.setdefault(result.configuration, ConfigurationRecord(result.demand))
        if result.outcome == "size_limit":
            record.size_limit = min(result.size, record.size_limit or result.size)
        elif result.outcome == "out_of_memory":
            record.failures.append(FailedSize(size=result.size, usable_bytes=result.usable_bytes))
            self._add_prediction_error(result, result.usable_bytes)  # the peak is unknown; it was at least this
            record.score_failures += not result.worst_case and result.usable_bytes is not None
        else:
            self._add_run(record, result)

    def _add_run(self, record: ConfigurationRecord, result: ProbeResult) -> None:
        peak = result.peak_bytes
        if peak is None:
            record.largest_unmeasured = max(record.largest_unmeasured, result.size)
            return
        if result.worst_case:
            self._add_prediction_error(result, peak)
            if result.seconds > 0:
                record.seconds[result.size] = min(result.seconds, record.seconds.get(result.size, math.inf))
            peaks = record.phases.setdefault(result.size, {})
            for phase, phase_peak in result.phases or ((WHOLE, peak),):
                peaks[phase] = max(phase_peak - result.floor_bytes, peaks.get(phase, 1))
        if result.worst_case or result.size in record.peaks:
            record.peaks[result.size] = max(peak - result.floor_bytes, record.peaks.get(result.size, 1))

    def _add_prediction_error(self, result: ProbeResult, peak: int | None) -> None:
        if result.predicted_bytes and peak is not None and peak > result.floor_bytes:
            self.prediction_errors.append((peak - result.predicted_bytes) / (peak - result.floor_bytes))
