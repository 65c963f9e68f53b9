"""The latency of a fixed set of requests, from generations that were timed one after another, and its interval.

Requests differ: one has more vision tokens than another. So every time is taken relative to the median of its own
request, and what is left is the noise of the machine. Consecutive generations depend on each other, so they are
averaged in groups, and the interval is that of the median over groups. The simulations behind the numbers:
``tests/stats/test_generation_times.py``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, final

from vlmprof.stats import timeseries
from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.intervals import MeanInterval

GROUP = 8
"""Generations that are averaged; fewer where there are too few for eight groups."""
FEWEST_GROUPS = 6
"""The fewest groups from which a rate has an interval."""
GAP_SHARE = 0.25
"""A gap of this share of the range of the middle times separates two modes."""
MIDDLE = 0.15
"""Share of the times at either end that is left out: a level that holds for less does not move a median."""


@final
class RequestTime(NamedTuple):
    """One timed generation."""

    request: int
    ms: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLatency:
    """The mean over requests of their latency, in ms."""

    ms: float
    low: float | None
    """Lower end of the 95 % interval; None where a request was timed once, or there are too few groups."""
    high: float | None
    halves_apart: float
    """How far the first half of the generations is from the second, as a share."""
    modes_apart: float
    """The gap between two modes in which the times dwell, as a share; 0 where there is only one."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval as a share of ``ms``; infinite without an interval."""
        return math.inf if self.low is None or self.high is None else (self.high - self.low) / 2 / self.ms


def request_latency(times: Sequence[RequestTime]) -> RequestLatency:
    """The latency of the requests: the median over groups of consecutive generations of their mean.

    Args:
        times: In the order in which they were measured, at least one.

    Raises:
        ValueError: a time is not finite.
    """
    if not all(math.isfinite(time.ms) for time in times):
        raise ValueError("expected finite times for a latency")
    medians = request_medians(times)
    centre = statistics.fmean(medians.values())
    relative = [time.ms / medians[time.request] for time in times]
    groups = grouped_means(relative)
    middle = statistics.median(groups)
    interval = timeseries.steady_median_interval(groups)
    low = high = None
    # A median of few times lies close to them: n of them appear to spread less, by (n - 1) / n of the variance.
    each = len(times) / len(medians)
    if interval is not None and each > 1:
        wider = math.sqrt(each / (each - 1))
        low = centre * (middle + wider * (interval.low - middle))
        high = centre * (middle + wider * (interval.high - middle))
    return RequestLatency(
        ms=centre * middle,
        low=low,
        high=high,
        halves_apart=timeseries.halves_apart(relative) if len(relative) > 1 else 0.0,
        modes_apart=modes_apart(relative),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRate:
    """Requests in a second of back-to-back work."""

    per_s: float
    low: float | None
    """Lower end of the 95 % interval; None where a request was timed once, or there are too few groups."""
    high: float | None


def request_rate(times: Sequence[RequestTime]) -> RequestRate:
    """The number of requests divided by their total time, which slow ones are part of.

    The interval is Student's, of the mean over groups of consecutive generations, each relative to the median of its
    request, with the effective number of groups in place of their number.

    Args:
        times: In the order in which they were measured, at least one.
    """
    per_s = len(times) / sum(time.ms for time in times) * 1e3
    medians = request_medians(times)
    groups = grouped_means([time.ms / medians[time.request] for time in times])
    each = len(times) / len(medians)
    if len(groups) < FEWEST_GROUPS or each <= 1:
        return RequestRate(per_s=per_s, low=None, high=None)
    effective = max(2.0, timeseries.effective_repeats(groups))
    error = statistics.stdev(groups) / math.sqrt(effective) * math.sqrt(each / (each - 1))
    half = student_quantile(0.95, effective - 1) * error / statistics.fmean(groups)
    if half >= 1:
        return RequestRate(per_s=per_s, low=None, high=None)
    return RequestRate(per_s=per_s, low=per_s / (1 + half), high=per_s / (1 - half))


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> MeanInterval | None:
    """How many times larger values of ``first`` are than their partners in ``second``, with a 95 % interval.

    The geometric mean of the ratios of pairs, and Student's interval of their logarithms: a drift that both partners of
    a pair share leaves it as it is. None for fewer than two pairs.

    Raises:
        ValueError: the numbers differ, or a value is not above 0.
    """
    logs = [math.log(above / below) for above, below in zip(first, second, strict=True)]
    interval = timeseries.process_interval(logs)
    if interval is None:
        return None
    return MeanInterval(mean=math.exp(interval.mean), low=math.exp(interval.low), high=math.exp(interval.high))


def request_medians(times: Sequence[RequestTime]) -> dict[int, float]:
    """The median time of each request, in ms."""
    by_request: dict[int, list[float]] = {}
    for time in times:
        by_request.setdefault(time.request, []).append(time.ms)
    return {request: statistics.median(values) for request, values in by_request.items()}


def grouped_means(values: Sequence[float]) -> list[float]:
    """Means of consecutive values, ``GROUP`` at a time, or of so few that there are eight groups."""
    size = max(1, min(GROUP, len(values) // 8))
    whole = len(values) // size * size
    # What is left over belongs to the last group: a group of its own would be noisier than the others.
    groups = [list(values[start : start + size]) for start in range(0, whole, size)]
    groups[-1] += values[whole:]
    return [statistics.fmean(group) for group in groups]


def modes_apart(relative: Sequence[float]) -> float:
    """The gap between two modes of relative times; 0 where no gap stands out.

    A clock that steps, a neighbour that comes and goes: times then dwell at one of two levels, and their median is that
    of the level that held longer. The times of one mode thin out towards both ends and have no gap in their middle.
    """
    ordered = sorted(relative)
    skip = math.ceil(MIDDLE * len(ordered))
    middle = ordered[skip : len(ordered) - skip]
    if len(middle) < 2:
        return 0.0
    gap = max(high - low for low, high in pairwise(middle))
    return gap if gap > GAP_SHARE * (middle[-1] - middle[0]) else 0.0
