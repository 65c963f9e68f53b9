"""Differences on the same samples: by hand, against scipy, and what a single cluster or no difference says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.paired import is_binary, mcnemar_mid_p, paired_differences
from vlmprof.stats.resampling import PairedScores


def differences(values, clusters):
    return PairedScores(scores=np.array(values, dtype=float)[:, None], clusters=np.array(clusters))


def test_independent_samples_are_the_paired_t_test():
    rng = np.random.default_rng(0)
    values = rng.normal(0.1, 1, 50)
    found = paired_differences(differences(values, range(50)))
    expected = scipy.stats.ttest_1samp(values, 0)
    low, high = found.estimates.ends()
    assert found.estimates.p_values()[0] == pytest.approx(expected.pvalue)
    assert (low[0], high[0]) == pytest.approx(tuple(expected.confidence_interval()))
    assert low[0] < found.drawn_low[0] + 0.1 and abs(found.drawn_high[0] - high[0]) < 0.1


def test_clusters_by_hand():
    # Sums of residuals of the pictures: 1 - 2 * 0.25, 1 - 0.5, -0.5, -0.5: variance 4 / 3 * 1 / 64.
    found = paired_differences(differences([1, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3]))
    assert found.estimates.value[0] == 0.25 and found.estimates.freedom[0] == 3
    assert found.estimates.error[0] == pytest.approx(math.sqrt(4 / 3 / 64))
    assert (found.rose[0], found.fell[0], found.samples, found.clusters) == (2, 0, 8, 4)


def test_no_difference_is_not_certain():
    found = paired_differences(differences([0] * 100, range(100)))
    assert found.estimates.error[0] == 0.01 and found.estimates.p_values()[0] == 1
    assert found.drawn_low[0] == found.drawn_high[0] == 0


def test_many_pairs_are_as_one_by_one():
    rng = np.random.default_rng(1)
    values = rng.integers(-1, 2, (30, 900)).astype(float)
    every = paired_differences(PairedScores(scores=values, clusters=np.arange(30) // 2), draws=0)
    one = paired_differences(PairedScores(scores=values[:, 850:851], clusters=np.arange(30) // 2), draws=0)
    assert every.estimates.error[850] == pytest.approx(one.estimates.error[0])
    assert np.isnan(every.drawn_low).all()


def test_one_cluster_is_refused():
    with pytest.raises(ValueError, match="two clusters"):
        paired_differences(differences([1, 0], [0, 0]))


def test_binary():
    assert is_binary(np.array([0.0, 1.0])) and not is_binary(np.array([0.0, 1 / 3]))


def test_the_mid_p_is_the_textbook_s() -> None:
    assert mcnemar_mid_p(0, 0) == 1.0
    assert mcnemar_mid_p(3, 3) == 1.0
    assert mcnemar_mid_p(1, 0) == pytest.approx(0.5)
    assert mcnemar_mid_p(5, 0) == pytest.approx(2 * 0.5 * 0.5**5)


@pytest.mark.parametrize(("better", "worse"), [(7, 3), (512, 512), (512, 580), (20_000, 20_400)])
def test_scipy_agrees_on_mcnemar_and_large_counts_do_not_overflow(better: int, worse: int) -> None:
    tails = scipy.stats.binom(better + worse, 0.5)
    fewer = min(better, worse)
    expected = min(1.0, 2 * (tails.cdf(fewer - 1) + tails.pmf(fewer) / 2))
    assert mcnemar_mid_p(better, worse) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_mid_p_is_symmetric_and_a_probability(better: int, worse: int) -> None:
    p = mcnemar_mid_p(better, worse)
    assert 0 < p <= 1
    assert p == mcnemar_mid_p(worse, better)
    pairs, fewer = better + worse, min(better, worse)
    tail = sum(math.comb(pairs, k) * 0.5**pairs for k in range(fewer + 1))
    assert p == pytest.approx(min(1.0, 2 * tail - math.comb(pairs, fewer) * 0.5**pairs) if pairs else 1.0)
