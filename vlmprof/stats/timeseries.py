"""Statistics of repeated timings: when warm-up is over, the interval of a median, which tail percentiles can be given.

Consecutive timings depend on each other, so an interval for independent values is too narrow: in simulations with an
AR(1) correlation of 0.6, the exact order-statistic interval of a median contains the true median in about 70 % of cases
instead of 95 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from vlmprof.stats.distributions import binomial_cdf, student_quantile
from vlmprof.stats.intervals import Interval, MeanInterval

WINDOW, WINDOWS = 5, 3
"""Warm-up is over when the medians of the last ``WINDOWS`` windows of ``WINDOW`` repeats agree."""
MAX_LAG, LEAST_CORRELATION = 25, 0.02
FEWEST = 6
"""The fewest repeats that give a 95 % interval of a median."""


def settled(times: Sequence[float], tolerance: float = 0.01) -> bool:
    """Whether the last ``WINDOWS`` windows of ``WINDOW`` repeats have medians within ``tolerance`` of each other."""
    if len(times) < WINDOW * WINDOWS:
        return False
    recent = times[-WINDOW * WINDOWS :]
    medians = [statistics.median(recent[i : i + WINDOW]) for i in range(0, len(recent), WINDOW)]
    return max(medians) - min(medians) <= tolerance * min(medians)


def effective_repeats(times: Sequence[float]) -> float:
    """The number of independent repeats with the same information, at most ``n``.

    It is ``n / (1 + 2 sum of rho_k (1 - k / n))``. The correlations are those of the residuals from the median, clipped
    at three scaled median absolute deviations so that single outliers do not hide the rest, summed until the first
    below ``LEAST_CORRELATION``, at most ``MAX_LAG``.
    """
    values = np.asarray(times, dtype=np.float64)
    n = values.size
    residuals = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    if spread == 0:
        return float(n)  # most are equal: their correlation cannot be estimated
    clipped = np.clip(residuals, -3 * spread, 3 * spread)
    clipped -= clipped.mean()
    power, total = float(clipped @ clipped), 0.0
    for lag in range(1, min(MAX_LAG, n - 2) + 1):
        rho = float(clipped[lag:] @ clipped[:-lag]) / power
        if rho < LEAST_CORRELATION:
            break
        total += rho * (1 - lag / n)
    return n / (1 + 2 * total)


def steady_median_interval(times: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """An interval of the median of times that may depend on each other; None when there are fewer than ``FEWEST``.

    Order statistics at ``n (1/2 -+ t / (2 sqrt(n_eff)))`` with Student's quantile at ``n_eff - 1`` degrees of freedom:
    the normal approximation of the binomial interval, with the effective number of repeats in place of the number.

    Raises:
        ValueError: a time is not finite.
    """
    ordered = sorted(times)
    n = len(ordered)
    if not all(math.isfinite(value) for value in ordered):
        raise ValueError("expected finite times for the interval of a median")
    if n < FEWEST:
        return None
    effective = max(2.0, effective_repeats(times))
    half = n * student_quantile(confidence, effective - 1) / (2 * math.sqrt(effective))
    low = max(0, math.floor(n / 2 - half) - 1)
    high = min(n - 1, math.ceil(n / 2 + half))
    return Interval(low=ordered[low], high=ordered[high])


def relative_half_width(times: Sequence[float]) -> float:
    """Half the width of the interval of the median, as a share of the median; infinite without an interval."""
    interval = steady_median_interval(times)
    return (interval.high - interval.low) / 2 / statistics.median(times) if interval else math.inf


def halves_apart(times: Sequence[float]) -> float:
    """How far the medians of the first and the second half are from each other, as a share of the median of all."""
    middle = len(times) // 2
    first, second = statistics.median(times[:middle]), statistics.median(times[middle:])
    return abs(first - second) / statistics.median(times)


def process_interval(medians: Sequence[float], confidence: float = 0.95) -> MeanInterval | None:
    """The mean of the medians of several processes and its t interval; None for fewer than two.

    It includes what differs from process to process, such as memory addresses and the choice of kernels.
    """
    if len(medians) < 2:
        return None
    mean, error = statistics.fmean(medians), statistics.stdev(medians) / math.sqrt(len(medians))
    half = student_quantile(confidence, len(medians) - 1) * error
    return MeanInterval(mean=mean, low=mean - half, high=mean + half)


def largest_valid_percentile(n: int, confidence: float = 0.99) -> float | None:
    """The largest percentile that can be given from ``n`` requests, rounded down to a per mille; None below 11.

    The rule is that of MLPerf LoadGen: ``P(Bin(n, 1 - percentile) <= 1) <= 1 - confidence``. It requires 64 requests
    for 0.9, 130 for 0.95 and 662 for 0.99.
    """
    valid = [k / 1000 for k in range(500, 1000) if _at_most_one_beyond(n, k / 1000) <= 1 - confidence]
    return max(valid, default=None)


def percentile_of(times: Sequence[float], percentile: float) -> float | None:
    """The percentile by nearest rank; None for fewer times than the rule of ``largest_valid_percentile`` requires."""
    if _at_most_one_beyond(len(times), percentile) > 0.01:
        return None
    return sorted(times)[math.ceil(percentile * len(times)) - 1]


def _at_most_one_beyond(n: int, percentile: float) -> float:
    return binomial_cdf(1, n, 1 - percentile)
