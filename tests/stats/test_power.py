"""How many samples it takes: by hand, against the textbook's number, and that the formulas agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmprof.stats.power import samples_needed, smallest_difference, standard_errors_needed


def test_the_textbook_s_number():
    # sigma 0.5, difference 0.1, power 0.8: (1.95996 + 0.84162)^2 * 25 = 196.2.
    assert samples_needed(np.array([0.05]), 100, 0.1, 0.8)[0] == 197
    assert standard_errors_needed(0.8) == pytest.approx(2.80158, abs=1e-5)


def test_needed_and_smallest_agree():
    errors = np.array([0.01, 0.02])
    smallest = smallest_difference(errors, 0.9)
    assert [samples_needed(errors[i : i + 1], 500, d, 0.9)[0] for i, d in enumerate(smallest)] == [500, 500]


@pytest.mark.parametrize(
    ("difference", "power"), [(0, 0.8), (-0.1, 0.8), (math.nan, 0.8), (0.1, 0), (0.1, 1), (0.1, 2)]
)
def test_bad_numbers_are_refused(difference, power):
    with pytest.raises(ValueError, match="expected"):
        samples_needed(np.array([0.1]), 100, difference, power)
