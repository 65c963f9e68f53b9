"""Quantiles and tails against published tables and exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.distributions import binomial_cdf, student_quantile

TABLE = [
    (0.95, 1, 12.7062),
    (0.95, 2, 4.30265),
    (0.95, 3, 3.18245),
    (0.95, 4, 2.77645),
    (0.95, 30, 2.04227),
    (0.95, 1000, 1.96234),
    (0.99, 1, 63.6567),
    (0.99, 2, 9.92484),
    (0.90, 1, 6.31375),
]


@pytest.mark.parametrize(("confidence", "freedom", "quantile"), TABLE)
def test_student_s_quantile_is_that_of_the_printed_table(confidence: float, freedom: float, quantile: float) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(quantile, rel=2e-6)


def test_student_s_quantile_takes_freedom_that_is_no_whole_number() -> None:
    assert student_quantile(0.95, 2) < student_quantile(0.95, 1.5) < student_quantile(0.95, 1)


@given(trials=st.integers(0, 60), below=st.integers(-2, 62), chance=st.sampled_from([0.5, 0.25, 0.125]))
def test_the_binomial_tail_is_the_sum_of_its_terms(trials: int, below: int, chance: float) -> None:
    share = Fraction(chance)
    terms = (math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(below + 1))
    assert binomial_cdf(below, trials, chance) == pytest.approx(float(sum(terms, Fraction(0))), rel=1e-12)
