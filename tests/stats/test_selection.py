"""Choosing the best of what is allowed: golden cases by hand, and what must hold for any costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.resampling import PairedScores, mean_draws
from vlmprof.stats.selection import (
    FEWEST_OF_HALVES,
    NOBODY,
    Contest,
    chances,
    confirm,
    corrected,
    difference,
    first_half,
    optimism,
    winner_is_best,
)
from vlmprof.stats.uncertain_front import NORMAL, DrawnObjective


def drawn(costs, errors, seed=0, draws=4000):
    costs, errors = np.asarray(costs, dtype=float), np.asarray(errors, dtype=float)
    noise = np.random.default_rng(seed).standard_normal((draws, len(costs)))
    pairs = np.hypot(errors[:, None], errors) * (1 - np.eye(len(costs)))
    return DrawnObjective(costs=costs, draws=costs + errors * noise, errors=pairs)


def contest_of(costs, errors, times=None, limit=np.inf):
    columns = {"cost": drawn(costs, errors)}
    if times is not None:
        columns["time"] = drawn(times, np.full(len(costs), 1.0), seed=1)
    return Contest(
        columns=columns,
        objective="cost",
        allowed=lambda costs: costs["time"] <= limit if times is not None else np.ones(costs["cost"].shape, bool),
    )


def test_the_winner_is_the_best_that_is_allowed():
    contest = contest_of([1.0, 2.0, 3.0], [0.1] * 3, times=[10, 5, 5], limit=7)
    assert contest.winner(contest.measured) == 1
    nobody = contest_of([1.0, 2.0, 3.0], [0.1] * 3, times=[10, 5, 5], limit=2)
    assert nobody.winner(nobody.measured) == NOBODY


def test_chances_of_a_normal_error():
    # The first is at its limit, the second one standard error below it, the third surely above.
    found = chances(contest_of([1.0, 2.0, 0.0], [1e-6] * 3, times=[7, 6, 30], limit=7))
    np.testing.assert_allclose(found.feasible, [0.5, 0.841, 0], atol=0.03)
    np.testing.assert_allclose(found.best, [0.5, 0.5 * 0.841, 0], atol=0.03)


def test_equals_share_the_draws_in_which_they_are_best():
    np.testing.assert_allclose(chances(contest_of([1.0, 1.0, 2.0], [0.0] * 3)).best, [0.5, 0.5, 0])


def test_a_clear_winner_is_not_optimistic():
    assert optimism(contest_of([0.0, 10.0, 20.0], [0.5] * 3)) < 0.02
    assert optimism(contest_of([0.0, 0.0, 1.0], [0.0] * 3)) == 0


def test_of_equals_the_winner_is_too_good_by_most_of_the_expected_minimum():
    # Eight equal configurations: the expected minimum of 8 standard normal numbers is -1.4236.
    rng = np.random.default_rng(1)
    found, so = [], []
    for _ in range(60):
        costs = rng.standard_normal(8)
        found.append(optimism(contest_of(costs, np.ones(8))))
        so.append(-costs.min())
    assert np.mean(so) == pytest.approx(1.42, abs=0.2)
    assert 0.75 * 1.42 < np.mean(found) < 1.1 * 1.42  # one step of the bootstrap alone gives 0.71 of it


def test_of_equals_each_is_the_best_with_its_share():
    """Four equal configurations: whichever wins is the one that is named best in one of four cases."""
    rng = np.random.default_rng(2)
    found = [winner_is_best(contest_of(rng.standard_normal(4), np.ones(4))) for _ in range(60)]
    raw = [chances(contest_of(rng.standard_normal(4), np.ones(4))).best.max() for _ in range(60)]
    assert 0.25 <= np.mean(found) < 0.5 < np.mean(raw)
    assert winner_is_best(contest_of([0.0, 50.0], np.ones(2))) == 1
    two = contest_of([0.0, 1.0], np.ones(2))  # as if nothing was known before: Phi(1 / sqrt 2)
    assert winner_is_best(two) == pytest.approx(0.76, abs=0.03)


def test_the_interval_of_a_winner_holds_the_measured_and_the_corrected_value():
    contest = contest_of([0.0, 0.1, 0.2], [1.0] * 3)
    found = corrected(contest, 0)
    assert found.mean == pytest.approx(optimism(contest))
    assert found.low == pytest.approx(-NORMAL, rel=0.05) and found.high == pytest.approx(found.mean - found.low, 0.05)


def test_differences_are_in_pairs():
    middle, low, high = difference(drawn([1.0, 3.0], [3.0, 4.0]), 0)
    assert middle.tolist() == [0, 2] and low.tolist() == [0, 2 - NORMAL * 5] and high.tolist() == [0, 2 + NORMAL * 5]


def paired_of(accuracies, samples=400, seed=0, per_cluster=1):
    rng = np.random.default_rng(seed)
    scores = (rng.random((samples, len(accuracies))) < accuracies).astype(float)
    return PairedScores(scores=scores, clusters=np.arange(samples) // per_cluster)


def scored(paired, limit=np.inf):
    draws = mean_draws(paired, 500)
    one = DrawnObjective(costs=-paired.means, draws=-draws, errors=np.zeros((draws.shape[1],) * 2))
    times = drawn(range(len(paired.means)), np.zeros(len(paired.means)), draws=500)
    return Contest(
        columns={"accuracy": one, "time": times}, objective="accuracy", allowed=lambda costs: costs["time"] <= limit
    )


def test_confirmed_on_the_other_half():
    paired = paired_of([0.3, 0.9, 0.95])
    found = confirm(scored(paired, limit=1), paired, {"accuracy": lambda means: -means})
    assert found is not None and found.winner == 1 and found.again == 1
    assert found.chosen_on == found.reported_on == 200
    rest = ~first_half(paired, 0)
    assert found.score.mean == paired.scores[rest, 1].mean()
    assert found.score.low < 0.9 < found.score.high


def test_nothing_allowed_is_nothing_confirmed():
    paired = paired_of([0.3, 0.9])
    assert confirm(scored(paired, limit=-1), paired, {"accuracy": lambda means: -means}) is None


def test_a_cluster_is_never_in_both_halves():
    paired = paired_of([0.5], per_cluster=3)
    first = first_half(paired, 3)
    assert not set(paired.clusters[first]) & set(paired.clusters[~first])
    assert abs(first.mean() - 0.5) < 0.02
    assert (first != first_half(paired, 4)).any() and (first == first_half(paired, 3)).all()


def test_too_few_clusters_have_no_halves():
    with pytest.raises(ValueError, match=f"expected {2 * FEWEST_OF_HALVES} clusters"):
        first_half(paired_of([0.5], samples=40, per_cluster=3), 0)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 2), st.floats(-3, 3))
def test_chances_add_up_and_optimism_is_not_negative(costs, error, limit):
    contest = Contest(
        columns={"cost": drawn(costs, np.full(len(costs), error), draws=50)},
        objective="cost",
        allowed=lambda given: given["cost"] >= limit,
    )
    found = chances(contest)
    assert (found.best <= found.feasible + 1e-12).all() and found.best.sum() <= 1 + 1e-9
    assert optimism(contest) >= 0
