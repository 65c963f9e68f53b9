"""The latency of fixed requests: its interval covers, requests of other lengths do not widen it, two modes are seen."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.generation_times import (
    RequestTime,
    grouped_means,
    modes_apart,
    paired_ratio,
    request_latency,
    request_rate,
)


def measured(
    seed: int,
    *,
    requests: int = 16,
    generations: int = 64,
    spread: float = 0.01,
    correlation: float = 0.6,
    outliers: float = 0.03,
    modes: tuple[float, float] = (0.0, math.inf),
) -> tuple[list[RequestTime], float]:
    """Times of a machine with AR(1) noise, rare slow generations and two levels ``modes[0]`` apart, each held for
    ``modes[1]`` generations on average; and the true latency at the lower level.
    """
    rng = random.Random(seed)
    base = [rng.uniform(60, 110) for _ in range(requests)]
    noise, upper, times = 0.0, rng.random() < 0.5, []
    for number in range(generations):
        noise = correlation * noise + rng.gauss(0, spread * math.sqrt(1 - correlation**2))
        upper ^= rng.random() < 1 / modes[1]
        slow = abs(rng.gauss(0, 0.2)) if rng.random() < outliers else 0.0
        request = number % requests
        times.append(RequestTime(request, base[request] * (1 + noise + slow + upper * modes[0])))
    return times, statistics.fmean(base)


@pytest.mark.parametrize("requests", [1, 4, 16])
@pytest.mark.parametrize("generations", [64, 160])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_covers(requests: int, generations: int, correlation: float) -> None:
    covered = 0
    for seed in range(150):
        times, truth = measured(seed, requests=requests, generations=generations, correlation=correlation)
        latency = request_latency(times)
        assert latency.low is not None and latency.high is not None
        assert latency.low <= latency.ms <= latency.high
        covered += latency.low <= truth <= latency.high
    assert covered / 150 >= 0.9


def test_requests_of_other_lengths_do_not_widen_it() -> None:
    """The same noise over sixteen requests of 60 to 110 ms and over one: treated as one sample, the first would have an
    interval of several percent.
    """
    alike = statistics.median(request_latency(measured(seed, requests=1)[0]).half_width for seed in range(40))
    unlike = statistics.median(request_latency(measured(seed, requests=16)[0]).half_width for seed in range(40))
    assert unlike < 1.6 * alike


@pytest.mark.parametrize(("held_for", "seen"), [(5.0, 0.9), (10.0, 0.75)])
def test_two_modes_are_seen(held_for: float, seen: float) -> None:
    """Sixty-four times of one request that dwell at two levels, 3 % apart; and nothing is seen where there is one."""
    two = [measured(seed, requests=1, spread=0.003, outliers=0.01, modes=(0.03, held_for))[0] for seed in range(100)]
    one = [measured(seed, requests=1, spread=0.003, outliers=0.01)[0] for seed in range(100)]
    assert sum(request_latency(times).modes_apart > 0.005 for times in two) / 100 >= seen
    assert sum(request_latency(times).modes_apart > 0.005 for times in one) / 100 <= 0.05


def test_a_gap_at_an_end_is_no_mode() -> None:
    assert modes_apart([1.0 + step / 1000 for step in range(40)] + [1.5]) == 0.0
    assert modes_apart([1.0, 1.001] * 10 + [1.03, 1.031] * 10) == pytest.approx(0.029)
    assert modes_apart([1.0]) == modes_apart([1.0] * 20) == 0.0


def test_one_time_each_gives_no_interval() -> None:
    latency = request_latency([RequestTime(request, 50.0 + request) for request in range(20)])
    assert latency.low is None and latency.half_width == math.inf and latency.ms == pytest.approx(59.5)


def test_a_time_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        request_latency([RequestTime(0, 1.0), RequestTime(0, math.nan)])


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=200))
def test_every_value_is_in_one_group(values: list[float]) -> None:
    groups = grouped_means(values)
    assert min(values) * (1 - 1e-9) <= min(groups) and max(groups) <= max(values) * (1 + 1e-9)
    assert (len(groups) >= min(8, len(values)) and len(values) / len(groups) <= 9) or len(values) < 72


@given(st.integers(1, 12), st.integers(2, 12), st.floats(1, 1e4), st.floats(0.5, 2))
def test_it_scales_with_the_times(requests: int, each: int, ms: float, factor: float) -> None:
    rng = random.Random(requests * 100 + each)
    times = [RequestTime(i % requests, ms * (1 + rng.random())) for i in range(requests * each)]
    plain = request_latency(times)
    scaled = request_latency([RequestTime(time.request, time.ms * factor) for time in times])
    assert scaled.ms == pytest.approx(factor * plain.ms)
    assert scaled.half_width == pytest.approx(plain.half_width, abs=1e-9) or plain.low is None


@pytest.mark.parametrize("requests", [1, 16])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_the_interval_of_a_rate_covers(requests: int, correlation: float, outliers: float) -> None:
    """Slow generations are part of the work; those that are too rare to occur in a pass are in no interval of it."""
    covered = 0
    for seed in range(150):
        times, _ = measured(seed, requests=requests, correlation=correlation, outliers=outliers)
        slow, base = outliers * 0.2 * math.sqrt(2 / math.pi), random.Random(seed)
        truth = 1e3 / statistics.fmean(base.uniform(60, 110) for _ in range(requests)) / (1 + slow)
        rate = request_rate(times)
        assert rate.low is not None and rate.high is not None and rate.low <= rate.per_s <= rate.high
        covered += rate.low <= truth <= rate.high
    assert covered / 150 >= (0.88 if outliers else 0.9)


@given(st.lists(st.floats(1, 1e3), min_size=1, max_size=100), st.floats(0.01, 100))
def test_a_rate_is_work_by_time_and_scales(times: list[float], factor: float) -> None:
    rate = request_rate([RequestTime(0, ms) for ms in times])
    assert rate.per_s == pytest.approx(1e3 * len(times) / sum(times))
    slower = request_rate([RequestTime(0, factor * ms) for ms in times])
    assert slower.per_s == pytest.approx(rate.per_s / factor)
    assert (rate.low is None) == (rate.high is None)


def test_too_few_generations_have_a_rate_and_no_interval() -> None:
    few = request_rate([RequestTime(0, 10.0), RequestTime(0, 10.0)])
    assert (few.per_s, few.low, few.high) == (100.0, None, None)


@pytest.mark.parametrize("pairs", [2, 4, 16])
def test_the_interval_of_a_paired_ratio_covers_whatever_drifts_under_both(pairs: int) -> None:
    covered = 0
    for seed in range(400):
        rng = random.Random(seed)
        drift = [math.exp(rng.gauss(0, 0.3)) for _ in range(pairs)]
        full = [30 * level * math.exp(rng.gauss(0, 0.02)) for level in drift]
        own = [20 * level * math.exp(rng.gauss(0, 0.02)) for level in drift]
        ratio = paired_ratio(full, own)
        assert ratio is not None
        covered += ratio.low <= 1.5 <= ratio.high
    assert 0.92 <= covered / 400 <= 0.98


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=2, max_size=9), st.floats(0.1, 10))
def test_a_paired_ratio_turns_over_with_its_sides(pairs: list[tuple[float, float]], factor: float) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    ratio, turned = paired_ratio(first, second), paired_ratio(second, first)
    assert ratio is not None and turned is not None and ratio.low <= ratio.mean <= ratio.high
    assert ratio.mean * turned.mean == pytest.approx(1)
    scaled = paired_ratio([factor * one for one in first], second)
    assert scaled is not None and scaled.mean == pytest.approx(factor * ratio.mean)


def test_one_pair_is_no_measurement() -> None:
    assert paired_ratio([2.0], [1.0]) is None
