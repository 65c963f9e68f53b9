"""The front with its doubt: small cases by hand, and the error rates of its two tiers against a simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.uncertain_front import DrawnObjective, best_within, uncertain_front

DRAWS = 4000


def objective(costs, error, seed=0):
    """Independent errors of this size."""
    costs = np.asarray(costs, dtype=float)
    draws = costs + error * np.random.default_rng(seed).standard_normal((DRAWS, len(costs)))
    errors = math.sqrt(2) * error * (1 - np.eye(len(costs)))
    return DrawnObjective(costs=costs, draws=draws, errors=errors)


def exact(costs):
    return objective(costs, 0.0)


def test_without_noise_it_is_the_front():
    costs = np.random.default_rng(0).integers(0, 6, (30, 2)).astype(float)
    found = uncertain_front([exact(costs[:, 0]), exact(costs[:, 1])], [0, 0])
    truth = non_dominated(costs)
    assert (found.surely == truth).all() and (found.possibly == truth).all()
    assert set(found.probability) <= {0.0, 1.0}
    beaten_by = [((costs <= row).all(axis=1) & (costs < row).any(axis=1)).sum() for row in costs]
    assert found.rank.tolist() == [1 + count for count in beaten_by]
    assert found.hypervolume.low == pytest.approx(found.hypervolume.mean) == found.hypervolume.high


def test_two_near_ties_by_hand():
    # The second is worse in both by one standard error of each difference: it is better in one of them, and so on the
    # front, in 1 - Phi(1)^2 = 29 % of draws. The third is out of reach; the first is on it unless it is the worse.
    found = uncertain_front([objective([0, math.sqrt(2), 20], 1, 1), objective([0, math.sqrt(2), 20], 1, 2)], [0, 0])
    phi = 0.841345
    assert found.probability == pytest.approx([1 - (1 - phi) ** 2, 1 - phi**2, 0], abs=0.02)
    assert found.rank == pytest.approx([1 + (1 - phi) ** 2, 1 + phi**2, 3], abs=0.02)
    assert found.surely.tolist() == [True, False, False]
    assert found.possibly.tolist() == [True, True, False]
    assert found.tie_group.tolist() == [1, 1, 0]


def test_what_is_exactly_equal_takes_no_part():
    # Equal memory, exact: whoever is surely faster beats the other.
    found = uncertain_front([exact([5, 5]), objective([1, 2], 0.01)], [0, 0])
    assert found.possibly.tolist() == [True, False]
    both = uncertain_front([exact([5, 5]), exact([1, 1])], [0, 0])
    assert both.surely.tolist() == [True, True]


def test_tie_groups_are_of_pairs_that_are_all_tied():
    # 0 ties 2 and 2 ties 4, 0 and 4 are told apart: not one group of three.
    found = uncertain_front([objective([0, 2, 4, 40], 1)], [0])
    assert found.tie_group.tolist() == [1, 1, 0, 0]


def test_the_epsilon_front_forgives_epsilon():
    costs = [exact([1, 2, 3]), exact([1.0, 1.05, 1.3])]
    assert uncertain_front(costs, [1.5, 0.1]).epsilon_front.tolist() == [True, True, False]
    assert uncertain_front(costs, [0, 0]).epsilon_front.tolist() == [True, False, False]
    assert uncertain_front(costs, [0.5, 0.01]).epsilon_front.tolist() == [True, False, False]


def test_hypervolume_by_hand():
    # A box of 1 x 1 with a margin of .01: corners (0, 1) and (1, 0) leave 1 of 1.01^2 free.
    found = uncertain_front([exact([10, 20]), exact([7, 3])], [0, 0])
    assert found.hypervolume.mean == pytest.approx((1.01**2 - 1) / 1.01**2)


def test_without_a_box_there_is_no_hypervolume():
    for costs in ([exact([1]), exact([2])], [exact([1, 2]), exact([3, 3])]):
        assert uncertain_front(costs, [0, 0]).hypervolume is None


def test_the_band_encloses_the_measured_front():
    found = uncertain_front([objective([0, 5, 9], 1), objective([9, 5, 0], 0.5, 3)], [0, 0])
    assert (found.band_low < found.band_high).all()
    assert found.band_high[:, 0] - found.band_low[:, 0] == pytest.approx(np.full(3, 2 * 2.6), rel=0.1)  # max of six


def test_three_and_four_objectives():
    rng = np.random.default_rng(2)
    for count in (3, 4):
        costs = rng.random((12, count))
        found = uncertain_front([objective(column, 1e-6, i) for i, column in enumerate(costs.T)], [0] * count)
        assert (found.surely == non_dominated(costs)).all()
        assert found.hypervolume.low <= found.hypervolume.mean <= found.hypervolume.high


def test_objectives_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        uncertain_front([exact([1, 2]), exact([1, 2, 3])], [0, 0])
    with pytest.raises(ValueError, match="an epsilon for each"):
        uncertain_front([exact([1, 2])], [])


def test_the_best_within_a_budget_by_hand():
    budget, value = objective([1, 2, 3], 0.01, 1), objective([9, 7, 5], 0.1, 2)
    found = best_within(budget, 2.5, value)
    assert found is not None
    assert (found.low, found.mean, found.high) == (pytest.approx(6.776, abs=0.02), 7.0, pytest.approx(7.224, abs=0.02))
    at_the_edge = best_within(budget, 3.0, value)  # kept or not: the best is 5 or 7
    assert at_the_edge is not None
    assert at_the_edge.low == pytest.approx(4.776, abs=0.02) and at_the_edge.high == pytest.approx(7.224, abs=0.02)
    assert best_within(budget, 0.5, value) is None
