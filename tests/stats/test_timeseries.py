"""Statistics of times in a row: by hand where a hand can, by simulation where the claim is about chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from vlmprof.stats import timeseries
from vlmprof.stats.intervals import Interval

RUNS = 400


def correlated(rng: np.random.Generator, n: int, rho: float) -> NDArray[np.float64]:
    """AR(1) noise of unit variance about 100, three in a hundred of them outliers, as timings have."""
    noise = np.empty(n)
    noise[0] = rng.standard_normal()
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + math.sqrt(1 - rho**2) * rng.standard_normal()
    return 100 + noise + (rng.random(n) < 0.03) * 20 * rng.random(n)


def coverage(interval: object, rho: float, n: int) -> float:
    rng = np.random.default_rng(5)
    truth = 100.04  # the outliers shift the median of the mixture by so much
    held = 0
    for _ in range(RUNS):
        found = interval(correlated(rng, n, rho).tolist())  # type: ignore[operator]
        held += found.low <= truth <= found.high
    return held / RUNS


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_the_interval_of_a_median_holds_as_often_as_it_says(rho: float) -> None:
    assert coverage(timeseries.steady_median_interval, rho, 80) > 0.90


def independent_median_interval(times: list[float]) -> Interval:
    """The exact interval of order statistics, which is right for independent times."""
    ordered, rank = sorted(times), int(binom.ppf(0.025, len(times), 0.5))
    return Interval(low=ordered[rank - 1], high=ordered[-rank])


def test_the_interval_for_independent_times_does_not() -> None:
    assert coverage(independent_median_interval, 0.0, 80) > 0.92
    assert coverage(independent_median_interval, 0.6, 80) < 0.80


def test_dependent_repeats_count_for_fewer() -> None:
    rng = np.random.default_rng(1)
    free, tied = (timeseries.effective_repeats(correlated(rng, 400, rho).tolist()) for rho in (0.0, 0.6))
    assert free > 300
    assert 60 < tied < 160  # (1 - rho) / (1 + rho) of 400 is 100


def test_equal_times_have_an_interval_without_width() -> None:
    interval = timeseries.steady_median_interval([3.0] * 10)
    assert interval is not None and interval.low == interval.high == 3.0
    assert timeseries.relative_half_width([3.0] * 10) == 0.0


def test_five_times_have_no_interval_and_nonsense_is_refused() -> None:
    assert timeseries.steady_median_interval([1.0] * 5) is None
    assert timeseries.relative_half_width([1.0] * 5) == math.inf
    with pytest.raises(ValueError, match="finite"):
        timeseries.steady_median_interval([1.0] * 9 + [math.nan])


def test_warm_up_ends_when_windows_agree_and_not_before() -> None:
    falling = [200 * 0.9**i + 100 for i in range(90)]
    ends = next(n for n in range(len(falling)) if timeseries.settled(falling[:n]))
    assert falling[ends - 1] < 101.5  # within the tolerance of where it goes
    assert not timeseries.settled([100.0] * 14)
    assert timeseries.settled([100.0] * 15)
    assert not timeseries.settled([100.0] * 10 + [101.5] * 5)


def test_warm_up_is_not_over_while_times_still_fall_under_noise() -> None:
    rng = np.random.default_rng(3)
    early = 0
    for _ in range(RUNS):
        times = [(130 - 2 * i if i < 15 else 100) + rng.normal(0, 0.3) for i in range(15)]
        early += timeseries.settled(times)
    assert early == 0


@pytest.mark.parametrize(("percentile", "fewest"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_a_tail_needs_as_many_requests_as_loadgen_asks(percentile: float, fewest: int) -> None:
    assert timeseries.percentile_of([1.0] * (fewest - 1), percentile) is None
    assert timeseries.percentile_of([1.0] * fewest, percentile) == 1.0
    largest = timeseries.largest_valid_percentile(fewest)
    assert largest is not None and percentile <= largest < percentile + 0.04


def test_a_percentile_is_the_nearest_rank() -> None:
    assert timeseries.percentile_of([float(i) for i in range(1, 101)], 0.9) == 90.0
    assert timeseries.largest_valid_percentile(10) is None
    assert timeseries.percentile_of([], 0.5) is None


def test_the_interval_over_processes_is_the_textbook_s() -> None:
    interval = timeseries.process_interval([10.0, 11.0, 12.0])
    assert interval is not None and interval.mean == 11.0
    assert interval.high - 11.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert timeseries.process_interval([10.0]) is None


def test_an_interval_over_processes_holds_where_one_process_alone_does_not() -> None:
    rng = np.random.default_rng(7)
    alone = together = 0
    for _ in range(RUNS):
        shifts = rng.normal(0, 0.4, 3)
        processes = [(correlated(rng, 40, 0.3) * 0.3 + 70 + shift).tolist() for shift in shifts]
        single = timeseries.steady_median_interval(processes[0])
        joined = timeseries.process_interval([float(np.median(one)) for one in processes])
        assert single is not None and joined is not None
        alone += single.low <= 100.01 <= single.high
        together += joined.low <= 100.01 <= joined.high
    assert together / RUNS > 0.91
    assert alone / RUNS < 0.6
