"""Exact fronts and hypervolumes: by hand, against brute force, and against moocore, an independent implementation."""

from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.stats.fronts import (
    domination_shares,
    hypervolume,
    hypervolumes_of_draws,
    members_of_draws,
    non_dominated,
)


def brute_force(costs):
    return ~np.array([((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any() for row in costs], dtype=bool)


@st.composite
def tables(draw):
    """Up to 40 points of one to four costs; whole numbers, so that there are ties and duplicates."""
    objectives = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 5), min_size=objectives, max_size=objectives)
    return np.array(draw(st.lists(row, min_size=1, max_size=40)), dtype=float)


@given(tables())
def test_the_front_is_that_of_brute_force(costs):
    assert (non_dominated(costs) == brute_force(costs)).all()
    assert (members_of_draws(costs[None])[0] == brute_force(costs)).all()


@given(tables())
def test_moocore_agrees(costs):
    if costs.shape[1] > 1:
        assert (non_dominated(costs) == moocore.is_nondominated(costs, keep_weakly=True)).all()
        reference = np.full(costs.shape[1], 4.5)
        assert hypervolume(costs, reference) == pytest.approx(moocore.hypervolume(costs, ref=reference))


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(costs, random):
    order = random.sample(range(len(costs)), len(costs))
    assert (non_dominated(costs[order]) == non_dominated(costs)[order]).all()
    reference = np.full(costs.shape[1], 4.5)
    assert hypervolume(costs[order], reference) == pytest.approx(hypervolume(costs, reference))


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("kind", ["spread", "all on it", "many ties", "one line"])
def test_tables_beyond_the_first_pass(objectives, kind):
    rng = np.random.default_rng(objectives)
    costs = rng.random((1500, objectives))
    if kind == "all on it":
        costs = -costs / np.linalg.norm(costs, axis=1, keepdims=True)
    if kind == "many ties":
        costs = np.round(costs * 8)
    if kind == "one line":
        costs = np.column_stack([np.arange(1500.0), *([-np.arange(1500.0)] * (objectives - 1))])
    assert (non_dominated(costs) == brute_force(costs)).all()


def test_nothing_and_one_point():
    assert non_dominated(np.zeros((0, 3))).tolist() == []
    assert non_dominated(np.array([[1.0, 2.0, 3.0]])).tolist() == [True]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_and_counted(bad):
    with pytest.raises(ValueError, match=r"rows \[1\] of 1 "):
        non_dominated(np.array([[1.0, 2.0], [bad, 1.0]]))


def test_hypervolume_by_hand():
    # Corners (1, 3), (2, 2) and (3, 1) up to (4, 4): columns of 1, 2 and 3; (3, 3) adds nothing, (5, 0) is beyond.
    costs = np.array([[1, 3], [2, 2], [3, 1], [3, 3], [5, 0.0]])
    assert hypervolume(costs, np.array([4.0, 4.0])) == 6
    # The same as the base of a box of height 2, and a tower on (0, 0) of height 1: 16 - 6 more.
    solid = np.column_stack([costs[:4], np.zeros(4)])
    assert hypervolume(solid, np.array([4.0, 4.0, 2.0])) == 12
    assert hypervolume(np.vstack([solid, [0, 0, 1.0]]), np.array([4.0, 4.0, 2.0])) == 12 + 10
    assert hypervolume(np.array([[3.0]]), np.array([5.0])) == 2
    assert hypervolume(np.array([[6.0, 6.0]]), np.array([4.0, 4.0])) == 0


@pytest.mark.parametrize("objectives", [2, 3])
def test_draws_are_counted_one_by_one(objectives):
    draws = np.random.default_rng(1).integers(0, 4, (50, 12, objectives)).astype(float)
    assert (members_of_draws(draws) == [brute_force(draw) for draw in draws]).all()
    reference = np.full(objectives, 3.5)
    volumes = [moocore.hypervolume(draw, ref=reference) for draw in draws]
    assert hypervolumes_of_draws(draws, reference) == pytest.approx(np.array(volumes))
    shares = domination_shares(draws)
    for i, j in ((0, 1), (3, 7)):
        beats = [(draw[i] <= draw[j]).all() and (draw[i] < draw[j]).any() for draw in draws]
        assert shares[i, j] == np.mean(beats)


@settings(max_examples=30)
@given(tables())
def test_one_more_point_never_takes_volume_away(costs):
    reference = np.full(costs.shape[1], 4.5)
    assert hypervolume(costs, reference) >= hypervolume(costs[:-1], reference) - 1e-9
