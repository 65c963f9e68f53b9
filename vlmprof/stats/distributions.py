"""The distributions that intervals and tests need, from scipy.

``scipy.special`` and not ``scipy.stats``: the same numbers, with a third of the time and half the memory to import it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

_NORMAL_FROM = 1e9
"""Degrees of freedom from which Student's t is the normal distribution; scipy gives NaN for infinitely many."""


def student_quantile(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t: ``P(-t <= T <= t) = confidence``.

    Args:
        confidence: From 0 to 1, exclusive.
        freedom: Degrees of freedom, above 0; they need not be a whole number.
    """
    return float(stdtrit(freedom, (1 + confidence) / 2))


def binomial_cdf(successes: int, trials: int, chance: float) -> float:
    """``P(Bin(trials, chance) <= successes)``, for any whole number of successes and 0 trials or more."""
    if successes < 0:
        return 0.0
    return float(bdtr(min(successes, trials), trials, chance))  # beyond these bounds bdtr gives NaN


def student_quantiles(probability: float, freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quantile of Student's t at each of these degrees of freedom, which may be infinite: ``P(T <= t)``."""
    found: Any = stdtrit(np.minimum(freedom, _NORMAL_FROM), probability)
    return np.asarray(found, dtype=np.float64)


def student_tails(t: NDArray[np.float64], freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """``P(T >= t)`` for each ``t`` and its degrees of freedom, which may be infinite."""
    found: Any = stdtr(np.minimum(freedom, _NORMAL_FROM), -np.asarray(t))
    return np.asarray(found, dtype=np.float64)
