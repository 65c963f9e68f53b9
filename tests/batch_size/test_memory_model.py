"""The shared memory model, and where a larger batch stops paying."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.batch_size.devices import demand_of
from vlmprof.batch_size.memory_model import MemoryEstimate, MemoryModel, MemoryPoint, largest_within
from vlmprof.batch_size.observations import ConfigurationRecord, Observations
from vlmprof.batch_size.throughput import SHARE, fast_enough, knee, worth_trying


def grown(blocks: float, crops: float, size: int) -> float:
    return 5.0 + size * (1.0 + 0.7 * blocks * crops + 0.3 * crops)


def test_a_world_of_products_is_learnt_from_a_third_of_it() -> None:
    grid = list(product((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 4.0)))
    rng = np.random.default_rng(3)
    seen = [grid[i] for i in rng.permutation(len(grid))[:8]]
    points = [
        MemoryPoint(
            demand=demand_of(blocks=b, crops=c), size=s, amount=grown(b, c, s) * (1 + 0.01 * rng.standard_normal())
        )
        for b, c in seen
        for s in (4, 30)
    ]
    for b, c in grid:
        expected = MemoryModel(points, demand_of(blocks=b, crops=c)).prediction(0.0)(20)
        assert expected.mean == pytest.approx(grown(b, c, 20), rel=0.06)
        assert abs(expected.mean - grown(b, c, 20)) <= 4 * expected.sd


def test_the_fit_is_right_where_features_differ_by_many_orders_of_magnitude() -> None:
    """Bytes above the floor from kilobytes to hundreds of gigabytes, axes that are small shares of their most."""
    truth = {"blocks": 3e9, "crops": 2e5}
    grid = list(product((1.0, 3.0, 500.0), (1.0, 40.0), (1, 7, 400)))

    def bytes_of(blocks: float, crops: float, size: int) -> float:
        return 1e4 + size * (truth["blocks"] * blocks + truth["crops"] * crops)

    points = [MemoryPoint(demand=demand_of(blocks=b, crops=c), size=s, amount=bytes_of(b, c, s)) for b, c, s in grid]
    for b, c, s in grid:
        expected = MemoryModel(points, demand_of(blocks=b, crops=c)).prediction(0.0)(s)
        assert expected.mean == pytest.approx(bytes_of(b, c, s), rel=1e-6)


def test_what_was_never_varied_is_not_claimed_to_be_known() -> None:
    points = [
        MemoryPoint(demand=demand_of(blocks=2.0, crops=2.0), size=s, amount=grown(2, 2, s)) for s in (1, 4, 9, 20, 40)
    ]
    here = MemoryModel(points, demand_of(blocks=2.0, crops=2.0)).prediction(0.0)(30)
    far = MemoryModel(points, demand_of(blocks=4.0, crops=2.0)).prediction(0.0)(30)
    assert here.model_sd < 0.03 < far.model_sd


def test_distrust_widens_and_does_not_shift() -> None:
    points = [MemoryPoint(demand=demand_of(blocks=2.0), size=s, amount=grown(2, 1, s)) for s in (1, 4, 9, 20, 40)]
    model = MemoryModel(points, demand_of(blocks=2.0))
    calm, wary = model.prediction(0.0)(30), model.prediction(0.1)(30)
    assert calm.mean == wary.mean and wary.sd > calm.sd and calm.model_sd == wary.model_sd


@given(each=st.floats(0.5, 20), room=st.floats(0, 5000), most=st.integers(1, 2000))
def test_largest_is_the_last_size_within_the_room(each: float, room: float, most: int) -> None:
    size = largest_within(lambda b: MemoryEstimate(mean=each * b, sd=0.0), room, 1.0, most)
    assert 0 <= size <= most
    assert size == 0 or each * size <= room
    assert size == most or each * (size + 1) > room


@given(fixed=st.floats(0, 10), each=st.floats(0, 1), most=st.integers(1, 1000))
def test_the_knee_has_its_share_of_the_best_rate_and_one_less_has_not(fixed: float, each: float, most: int) -> None:
    size = knee(fixed, each, most)
    assert 1 <= size <= most
    if fixed < 1e-6 or fixed + each < 1e-6:
        return

    def rate(b: int) -> float:
        return b / (fixed + each * b)

    assert rate(size) >= SHARE * rate(most) * (1 - 1e-6)
    assert size == 1 or rate(size - 1) < SHARE * rate(most) * (1 + 1e-6)


def test_fast_enough_is_the_smallest_near_the_best() -> None:
    assert fast_enough({1: 1.0, 8: 1.2, 32: 4.0}) == 32
    assert fast_enough({1: 1.0, 8: 1.2, 32: 4.6}) == 8
    assert fast_enough({}) == 0


def timed(blocks: float, crops: float, experts: float, seconds: dict[int, float]) -> ConfigurationRecord:
    return ConfigurationRecord(demand_of(blocks=blocks, crops=crops, experts=experts), seconds=seconds)


@pytest.mark.parametrize("first_s", [0.5, 1.2, 9.0])
def test_a_few_times_of_cold_batches_do_not_make_a_configuration_run_one_by_one(first_s: float) -> None:
    """As on an H200: each time had the recording of a step in it, and the fifth configuration ran at size 1."""
    records = [
        timed(8, 13, 8, {1: first_s, 32: 2.0}),
        timed(8, 13, 4, {32: 1.9}),
        timed(8, 13, 2, {32: 1.8}),
        timed(12, 7, 4, {1: 1.2}),
    ]
    last = records[-1]
    assert worth_trying(times_of(records), last, last.demand, 32) == 32
    more = [timed(12, crops, experts, {32: 2.2}) for crops, experts in ((2, 2), (2, 4), (2, 8), (4, 2), (4, 4), (4, 8))]
    assert worth_trying(times_of([*records, *more]), last, last.demand, 32) >= 8


def times_of(records: list[ConfigurationRecord]) -> list[MemoryPoint]:
    return Observations(configurations={str(record.demand): record for record in records}).times()
