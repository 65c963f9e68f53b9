"""Overlap and ranks against scipy and by hand; areas under ROC curves against pairs counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlmprof.stats.agreement import jaccard, jaccard_interval, kendall, spearman
from vlmprof.stats.front_subsets import kept_front
from vlmprof.stats.roc import auc, crossed_predictions, group_rates, logistic
from vlmprof.stats.uncertain_front import DrawnObjective, uncertain_front


def drawn(costs, error=0.0, seed=0):
    costs = np.array(costs, dtype=float)
    noise = np.random.default_rng(seed).normal(0, error, (400, len(costs)))
    apart = np.sqrt(2) * error * (1 - np.eye(len(costs)))
    return DrawnObjective(costs=costs, draws=costs + noise, errors=apart)


def test_overlap_by_hand():
    a, b = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert jaccard(a, b) == 1 / 3 and jaccard(a, a) == 1
    assert jaccard(np.zeros(4, dtype=bool), np.zeros(4, dtype=bool)) is None


def test_exact_fronts_have_an_exact_overlap_and_noisy_ones_bounds():
    exact = [uncertain_front([drawn([0, 1, 2]), drawn(ys)], [0.01, 0.01]) for ys in ([2, 1, 0], [2, 0, 1])]
    fronts = [np.array([True, True, True]), np.array([True, True, False])]
    found = jaccard_interval((fronts[0], fronts[1]), (exact[0], exact[1]))
    assert (found.mean, found.low, found.high) == (2 / 3, 2 / 3, 2 / 3)
    noisy = [uncertain_front([drawn([0, 1, 2], 0.8), drawn(ys, 0.8)], [0.01, 0.01]) for ys in ([2, 1, 0], [2, 0, 1])]
    found = jaccard_interval((fronts[0], fronts[1]), (noisy[0], noisy[1]))
    assert found.low < 2 / 3 < found.high == 1


def test_ranks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(size=30)
    r, tau = spearman(drawn(a, 0.1), drawn(b, 0.1, 1)), kendall(drawn(a, 0.1), drawn(b, 0.1, 1))
    assert r.mean == pytest.approx(stats.spearmanr(a, b)[0]) and tau.mean == pytest.approx(stats.kendalltau(a, b)[0])
    assert r.low < r.mean < r.high and tau.low < tau.mean < tau.high
    sure = kendall(drawn(a), drawn(b))
    assert sure.low == pytest.approx(sure.mean) == pytest.approx(sure.high)


def test_no_ranks_of_two_or_of_equal_ones():
    assert spearman(drawn([1, 2]), drawn([1, 2])) is None
    assert kendall(drawn([1, 1, 1]), drawn([1, 2, 3])) is None


def test_what_a_part_of_a_front_keeps_by_hand():
    # Best first cost by limit on the second: 1 below 1, 0 from 1 on (all); the part has 1 throughout its range.
    costs = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    draws = np.broadcast_to(costs, (5, 3, 2))
    kept = kept_front(costs, draws, np.array([True, False, False]))
    # In units of the box, reference 1.01: all dominate 0.01 x 1.01 and 1 x 0.01, the part the first of these.
    assert kept.share.mean == pytest.approx(0.0101 / 0.0201)
    assert kept.loss.mean == pytest.approx(0.01 / 1.01)
    whole = kept_front(costs, draws, np.ones(3, dtype=bool))
    assert (whole.share.mean, whole.loss.mean) == (1, 0)


def test_no_box_no_members_and_three_costs():
    costs = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert kept_front(costs, costs[None], np.array([True, True])) is None
    assert kept_front(np.eye(2), np.eye(2)[None], np.zeros(2, dtype=bool)) is None
    with pytest.raises(ValueError, match="two costs"):
        kept_front(np.eye(3), np.eye(3)[None], np.ones(3, dtype=bool))


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_the_area_is_the_share_of_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    found = auc(scores, positive, np.arange(40) // 2)
    if not positive.any() or positive.all():
        assert found is None
        return
    pairs = scores[positive][:, None] - scores[~positive]
    assert found.mean == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_independent_samples_have_the_variance_of_delong():
    # Of structural components: variance of the placements of each kind over its number (DeLong and others 1988).
    rng = np.random.default_rng(1)
    positive = np.arange(400) < 150
    scores = rng.normal(size=400) + positive
    above = scores[positive][:, None] > scores[~positive]
    variance = above.mean(axis=1).var(ddof=1) / 150 + above.mean(axis=0).var(ddof=1) / 250
    found = auc(scores, positive, np.arange(400))
    logit = np.log(found.high / (1 - found.high)) - np.log(found.mean / (1 - found.mean))
    assert logit == pytest.approx(1.966 * variance**0.5 / (found.mean * (1 - found.mean)), rel=0.01)


def test_a_perfect_predictor_is_not_quite_sure():
    found = auc(np.arange(40.0), np.arange(40) >= 20, np.arange(40))
    assert found.mean == 1 == found.high and found.low < 1


def test_rates_of_groups_are_drawn_to_the_whole():
    groups, positive = ["a"] * 10 + ["b"] * 10, np.array([True] * 10 + [False] * 10)
    every = np.arange(20)
    rates = group_rates(groups, positive, every, every)
    assert rates[0] == pytest.approx((10 + 2.5) / 15) and rates[-1] == pytest.approx(2.5 / 15)
    assert (
        group_rates(["a"] * 10 + ["c"] * 10, positive, every[:10], every[10:]).tolist() == [1.0] * 10
    )  # unknown group


def test_logistic_regression_minimises_its_penalised_loss():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2)) * [1.0, 20.0]
    positive = rng.random(300) < 1 / (1 + np.exp(-(features[:, 0] - 0.02 * features[:, 1])))
    every = np.arange(300)
    chances = logistic(features, positive, every, every)
    # At the minimum the residuals are balanced against the penalty: the intercept's nearly vanishes.
    assert abs((positive - chances).sum()) < 0.01
    assert auc(chances, positive, every).mean > 0.7


def test_predictions_come_from_other_clusters():
    clusters = np.repeat(np.arange(12), 3)
    positive = clusters % 2 == 0  # constant within a cluster: who saw it would know
    found = crossed_predictions(positive, clusters, lambda learn, ask: np.full(len(ask), positive[learn].mean()))
    assert not np.isin(found, (0, 1)).any()


def test_one_kind_separates_perfectly_without_overflow():
    features, positive = np.arange(20.0)[:, None], np.arange(20) >= 10
    assert np.isfinite(logistic(features, positive, np.arange(20), np.arange(20))).all()
    assert logistic(features, np.zeros(20, dtype=bool), np.arange(20), np.arange(20)).max() < 0.01
