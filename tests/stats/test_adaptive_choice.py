"""Choosing for each sample: by hand, by what must hold for any table, and against simulated chances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.stats.adaptive_choice import (
    ChoiceTable,
    best_of_each,
    best_static,
    crossed,
    folds_of,
    greedy,
    headroom,
    largest_within,
    luck_alone,
    mean_of,
    oracle,
    side_information,
    static_candidates,
)


def table_of(scores, costs, clusters=None, work=None):
    scores = np.array(scores, dtype=float)
    costs = np.broadcast_to(np.array(costs, dtype=float), scores.shape)
    return ChoiceTable(
        scores=scores, costs=costs, clusters=np.arange(len(scores)) if clusters is None else clusters, work=work
    )


SMALL = table_of([[0, 1, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]], [1, 2, 3])


def test_the_oracle_takes_the_best_within_the_budget_and_of_equals_the_cheapest():
    assert oracle(SMALL, 3).tolist() == [1, 2, 0, 0]
    assert oracle(SMALL, 2).tolist() == [1, 0, 0, 0]
    assert oracle(SMALL, 0.5).tolist() == [0, 0, 0, 0]  # nothing is within it: the cheapest


def test_a_budget_holds_for_each_sample():
    table = table_of([[0, 1], [0, 1]], [[1, 2], [1, 5]])
    assert oracle(table, 2).tolist() == [1, 0]
    assert static_candidates(table, 2, 0.0).tolist() == [True, False]
    assert static_candidates(table, 2, 0.5).tolist() == [True, True]


def test_rewards_count_what_is_beyond_the_budget():
    assert SMALL.rewards(2, 0.5)[0].tolist() == pytest.approx([0, 1, 0.5])


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.2, 3.5))
def test_no_policy_beats_the_best_reward_and_exchanging_answers_changes_nothing(seed, budget):
    rng = np.random.default_rng(seed)
    table = table_of(rng.integers(0, 2, (40, 4)), rng.uniform(0.5, 3, (40, 4)))
    rewards = table.rewards(budget, 1.0)
    best = table.taken(best_of_each(rewards, table.costs), rewards)
    for policy in (best_static(table, rewards), largest_within(table, budget, np.ones(4, dtype=bool))):
        assert (table.taken(policy, rewards) <= best + 1e-12).all()
    # What the module says: the oracle's score is the same whichever configuration within the budget has which answer.
    whole = table_of(table.scores, [1.0, 1.0, 1.0, 1.0])
    exchanged = table_of(rng.permuted(table.scores, axis=1), [1.0, 1.0, 1.0, 1.0])
    assert whole.taken(oracle(whole, 1)).tolist() == exchanged.taken(oracle(exchanged, 1)).tolist()


def test_headroom_is_over_the_best_single_one():
    found = headroom(SMALL.taken(oracle(SMALL, 3)), SMALL, np.ones(3, dtype=bool))
    assert found.mean == 0  # the third is right wherever one is
    assert found.low < 0 < found.high
    found = headroom(SMALL.taken(oracle(SMALL, 2)), SMALL, np.array([True, True, False]))
    assert found.mean == 0.25


def test_headroom_needs_a_candidate_and_two_clusters():
    with pytest.raises(ValueError, match="candidate"):
        headroom(np.ones(4), SMALL, np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="two clusters"):
        headroom(np.ones(2), table_of([[1, 0], [0, 1]], [1, 2], np.zeros(2, dtype=int)), np.ones(2, dtype=bool))


def test_choosing_the_best_of_many_widens_the_upper_end():
    rng = np.random.default_rng(0)
    scores = (rng.random((300, 40)) < 0.6).astype(float)
    few, many = table_of(scores[:, :2], np.ones(2)), table_of(scores, np.ones(40))
    value = np.ones(300)
    lengths = []
    for table in (few, many):
        found = headroom(value, table, np.ones(table.scores.shape[1], dtype=bool))
        lengths.append(found.high - found.mean)
        assert found.low < 0.4 < found.high  # the truth
    assert lengths[1] > lengths[0]


def test_folds_keep_clusters_whole_and_are_as_equal_as_can_be():
    clusters = np.repeat(np.arange(11), 3)
    folds = folds_of(clusters)
    assert all(len(set(folds[clusters == one])) == 1 for one in range(11))
    assert sorted(np.bincount(folds[::3]).tolist()) == [2, 2, 2, 2, 3]
    assert len(set(folds_of(np.array([0, 0, 1])))) == 2


def test_what_is_chosen_for_a_fold_was_not_learned_from_it():
    def choose(learn, ask):
        assert not set(table.clusters[learn]) & set(table.clusters[ask])
        return np.zeros(len(ask), dtype=int)

    table = table_of(np.zeros((30, 2)), [1, 2], np.repeat(np.arange(10), 3))
    assert not crossed(table, choose).any()


def test_one_knob_takes_the_fullest_that_fits():
    table = table_of(np.zeros((2, 3)), [[1, 2, 3], [2, 4, 6]])
    assert largest_within(table, 3, np.array([True, True, True])).tolist() == [2, 0]
    assert largest_within(table, 3, np.array([False, True, True])).tolist() == [2, 1]  # none fits: the cheapest of them


def test_greedy_gives_up_first_what_costs_most_for_a_point():
    # 0: 1.0 at 10; 1: 0.9 at 5 (50 a point); 2: 0.5 at 4 (12 a point); 3: 0.4 at 2
    scores = np.tile([1.0, 0.9, 0.5, 0.4], (10, 1))
    table, steps = table_of(scores, [10, 5, 4, 2]), [[1, 2], [3], [3], []]
    assert greedy(table, 10, 0, steps).tolist() == [0] * 10
    assert greedy(table, 6, 0, steps).tolist() == [1] * 10
    assert greedy(table, 4.5, 0, steps).tolist() == [3] * 10  # it does not go back for 2
    assert greedy(table, 1, 0, steps).tolist() == [3] * 10


def test_luck_of_independent_answers():
    # One difficulty that does not matter: the best of two fair coins is right in 3 of 4.
    scores = np.random.default_rng(0).integers(0, 2, (20_000, 2))
    assert luck_alone(table_of(scores, [1, 1]), 1) == pytest.approx(0.25, abs=0.01)


def test_no_luck_where_answers_agree():
    # Nested answers: who is right in the first is right in the second. No luck, and no headroom.
    hard = np.random.default_rng(0).random(20_000)
    scores = np.stack([hard < 0.5, hard < 0.7], axis=1)
    assert luck_alone(table_of(scores, [1, 1]), 1) == pytest.approx(0.0, abs=0.015)


def test_luck_of_graded_scores_and_what_has_none():
    rng = np.random.default_rng(0)
    graded = rng.integers(0, 3, (20_000, 2)) / 2  # the mean of the larger of two is 13 / 18
    assert luck_alone(table_of(graded, [1, 1]), 1) == pytest.approx(13 / 18 - 0.5, abs=0.015)
    assert luck_alone(table_of(rng.random((50, 2)), [1, 1]), 1) is None  # too many levels
    same = table_of(graded[:, :1].repeat(2, axis=1), [1, 1], work=np.zeros((20_000, 2), dtype=int))
    assert luck_alone(same, 1) is None


def preferring(samples, seed):
    """Half of the samples are answered by the first two configurations, half by the others, with some luck."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, samples)[:, None] == np.array([0, 0, 1, 1])
    return (rng.random((samples, 4)) < np.where(kind, 0.9, 0.1)).astype(float)


def test_side_information_finds_preferences_and_does_not_invent_them():
    table = table_of(preferring(2000, 0), [1, 1, 1, 1])
    every = np.ones(4, dtype=bool)
    informed = headroom(side_information(table, 1, every), table, every)
    whole = headroom(table.taken(oracle(table, 1)), table, every)
    assert informed.low > 0.1 and informed.mean < 0.4 < whole.high  # 0.9 for all instead of 0.5
    blind = table_of((np.random.default_rng(1).random((2000, 4)) < 0.5).astype(float), [1, 1, 1, 1])
    assert headroom(side_information(blind, 1, every), blind, every).low < 0


def test_answers_of_the_same_work_are_not_shown():
    # Coins, each of which two configurations share: seeing one would give the other away.
    coins = (np.random.default_rng(2).random((1500, 3)) < 0.5).astype(float).repeat(2, axis=1)
    work = np.broadcast_to(np.array([0, 0, 2, 2, 4, 4]), coins.shape)
    every = np.ones(6, dtype=bool)
    given_away = side_information(table_of(coins, [1] * 6), 1, every).mean()
    hidden = side_information(table_of(coins, [1] * 6, work=work), 1, every).mean()
    assert given_away > 0.6 and hidden < 0.54


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="costs above 0"):
        table_of([[1, 0]], [0, 1])
    with pytest.raises(ValueError, match="finite scores"):
        table_of([[np.nan, 0]], [1, 1])
    with pytest.raises(ValueError, match="expected scores and costs"):
        ChoiceTable(scores=np.ones((2, 2)), costs=np.ones((2, 3)), clusters=np.arange(2))


def test_a_mean_is_never_quite_sure():
    found = mean_of(np.zeros(50), np.arange(50))
    assert found.mean == 0 and found.high > 0.02
