"""Intervals, bounds and p-values by Student's t against scipy; Holm's adjustment by hand and by its property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.estimates import Estimates, errors_of_intervals, holm, welch_freedom


def of(value, error, freedom):
    return Estimates(value=np.array([value]), error=np.array([error]), freedom=np.array([freedom]))


@pytest.mark.parametrize("freedom", [1.0, 2.5, 40.0, math.inf])
def test_scipy_agrees(freedom):
    t = scipy.stats.t(freedom) if math.isfinite(freedom) else scipy.stats.norm()
    one = of(0.3, 0.1, freedom)
    low, high = one.ends()
    assert (low[0], high[0]) == pytest.approx((0.3 + 0.1 * t.ppf(0.025), 0.3 + 0.1 * t.ppf(0.975)))
    below, above = one.bounds(0.01)
    assert (below[0], above[0]) == pytest.approx((0.3 + 0.1 * t.ppf(0.01), 0.3 + 0.1 * t.ppf(0.99)))
    assert one.p_values()[0] == pytest.approx(2 * t.sf(3))


def test_what_is_exact_has_no_chance():
    assert of(0.0, 0.0, math.inf).p_values()[0] == 1
    assert of(0.1, 0.0, math.inf).p_values()[0] == 0
    assert of(0.1, 0.0, math.inf).ends()[0][0] == 0.1
    assert np.isnan(of(math.nan, 0.1, 3.0).p_values()[0])


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm(np.array([0.01, math.nan, 0.04]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.04]) and np.isnan(found[1])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(values):
    p = np.array(values)
    found = holm(p)
    assert (found >= p - 1e-12).all() and (found <= np.minimum(1, p * len(p)) + 1e-12).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= -1e-12).all()


def test_welch_by_hand():
    found = welch_freedom(
        [np.array([4.0, 0.0]), np.array([1.0, 1.0])], [np.array([8.0, 3.0]), np.array([4.0, math.inf])]
    )
    assert found[0] == pytest.approx(25 / (16 / 8 + 1 / 4)) and math.isinf(found[1])


def test_errors_of_intervals():
    value, low, high = (np.array([one]) for one in (10.0, 8.0, 12.0))
    assert errors_of_intervals(value, low, high, logarithms=False)[0] == pytest.approx(4 / 3.92)
    assert errors_of_intervals(value, low, high, logarithms=True)[0] == pytest.approx(math.log(1.5) / 3.92)
    assert errors_of_intervals(value, -low, high, logarithms=True)[0] == pytest.approx(2 * math.log(1.2) / 3.92)
