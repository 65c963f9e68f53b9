"""Factorial tables: components against an analysis of variance written out, contrasts and tests by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from vlmprof.stats.factorial import (
    component,
    contrast_weights,
    contrasts,
    decompose,
    drawn_interaction_test,
    interaction_test,
    sets_of,
)

TABLES = arrays(np.float64, (2, 3, 2), elements=st.floats(-1, 1, width=32))


@settings(max_examples=40)
@given(TABLES)
def test_components_add_up_and_are_orthogonal(table):
    parts = {factors: component(table[None], factors, 3)[0] for factors in [(), *sets_of(3)]}
    assert np.allclose(sum(parts.values()), table)
    for a, b in itertools.combinations(parts.values(), 2):
        assert abs((a * b).sum()) < 1e-6


def test_components_of_a_table_by_hand():
    # 1 2 / 3 8: mean 3.5, rows -2 and 2, columns -1.5 and 1.5, interaction 1 -1 / -1 1
    table = np.array([[1.0, 2.0], [3.0, 8.0]])
    assert component(table[None], (0,), 2)[0].tolist() == [[-2, -2], [2, 2]]
    assert component(table[None], (1,), 2)[0].tolist() == [[-1.5, 1.5], [-1.5, 1.5]]
    assert component(table[None], (0, 1), 2)[0].tolist() == [[1, -1], [-1, 1]]


def test_shares_without_noise_are_those_of_the_squares():
    table = np.array([[1.0, 2.0], [3.0, 8.0]])
    found = decompose(table, np.broadcast_to(table, (10, 2, 2)), np.zeros((4, 4)))
    shares = {one.factors: one.share.mean for one in found}
    assert shares == pytest.approx({(0,): 4 / 7.25, (1,): 2.25 / 7.25, (0, 1): 1 / 7.25})
    assert [one.deviation.mean for one in found] == pytest.approx([2, 1.5, 1])
    assert all(one.deviation.low == one.deviation.mean == one.deviation.high for one in found)


def test_noise_alone_has_no_share_on_average():
    # Independent errors of variance 1: the sum of squares of an interaction of 2 x 2 is that of one contrast, 1 on
    # average, which is what is subtracted.
    rng = np.random.default_rng(0)
    deviations = [decompose(rng.normal(size=(2, 2)), rng.normal(size=(50, 2, 2)), np.eye(4)) for _ in range(200)]
    lows = [one[2].deviation.low for one in deviations]
    assert np.mean([low == 0 for low in lows]) > 0.9


def test_the_interval_of_one_contrast_is_that_of_a_noncentral_chi_square():
    table = np.array([[0.0, 0.0], [0.0, 4.0]])  # interaction: 1 in each cell, sum of squares 4
    found = decompose(table, np.broadcast_to(table, (10, 2, 2)), 0.25 * np.eye(4))[2].deviation
    for end, share in ((found.low, 0.975), (found.high, 0.025)):
        assert stats.ncx2.cdf(4 / 0.25, 1, end**2 * 4 / 0.25) == pytest.approx(share, abs=1e-4)


def test_a_table_without_variance_has_no_shares():
    table = np.full((2, 2), 0.5)
    assert [one.share for one in decompose(table, np.broadcast_to(table, (5, 2, 2)), np.zeros((4, 4)))] == [None] * 3


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected draws and covariance"):
        decompose(np.zeros((2, 2)), np.zeros((5, 2, 3)), np.zeros((4, 4)))


def test_weights_of_a_difference_of_differences():
    weights = contrast_weights((2, 2, 3), {0: (0, 1), 1: (0, 1)}, {2: 2})
    assert weights[:, :, 2].tolist() == [[1, -1], [-1, 1]] and not weights[:, :, :2].any()
    assert contrast_weights((2, 3), {0: (0, 1)}, {}).tolist() == [[1 / 3] * 3, [-1 / 3] * 3]


def test_contrasts_have_the_error_of_their_covariance():
    weights = np.array([[1.0, -1.0], [0.5, 0.5]])
    covariance = np.array([[4.0, 1.0], [1.0, 4.0]])
    draws = np.random.default_rng(0).multivariate_normal([3, 1], covariance, 4000)
    first, second = contrasts(weights, np.array([3.0, 1.0]), covariance, draws, 2.0)
    assert (first.value, first.high - first.value) == pytest.approx((2, 2 * 6**0.5))  # 4 + 4 - 2
    assert (second.value, second.high - second.value) == pytest.approx((2, 2 * 2.5**0.5))
    assert first.together_low < first.low and second.together_high > second.high


def interacting(effect, clusters=60, seed=0):
    """Sums of clusters with main effects, and an interaction of the first two factors of this size."""
    rng = np.random.default_rng(seed)
    a, b, _ = np.indices((2, 2, 2))
    own = rng.normal(0, 1, (clusters, 1, 1, 1))
    return own + 0.5 * a + 0.3 * b + effect * a * b + rng.normal(0, 0.2, (clusters, 2, 2, 2))


def test_an_interaction_is_found_where_it_is():
    sums = interacting(0.5)
    assert interaction_test(sums, (0, 1)) == 1 / 2001
    assert interaction_test(sums, (0, 2)) > 0.05 and interaction_test(sums, (0, 1, 2)) > 0.05


def test_main_effects_of_any_size_reject_nothing():
    rejected = [interaction_test(interacting(0.0, seed=seed), (0, 1), 200, seed) <= 0.05 for seed in range(200)]
    assert np.mean(rejected) <= 0.1


def test_few_clusters_cannot_reject():
    # Of five clusters there are 32 sets of signs, of which two are as large as can be.
    assert interaction_test(interacting(5.0, clusters=5), (0, 1)) > 0.04


def test_nothing_varies():
    assert interaction_test(np.zeros((10, 2, 2)), (0, 1)) == 1
    assert drawn_interaction_test(np.array([[1.0, 2.0], [2.0, 9.0]]), np.zeros((10, 2, 2)), (0, 1)) == 1


def test_a_drawn_table_is_judged_by_its_draws():
    rng = np.random.default_rng(0)
    table = np.array([[0.0, 1.0], [1.0, 2.0]])
    off = 0.1 * rng.normal(size=(999, 2, 2))
    assert drawn_interaction_test(table, off, (0, 1)) == 1  # exactly additive
    assert drawn_interaction_test(table + np.array([[0, 0], [0, 2.0]]), off, (0, 1)) == 1 / 1000
