"""The two distributions that intervals and tests need, from scipy.

``scipy.special`` and not ``scipy.stats``: the same numbers, with a third of the time and half the memory to import it.
"""

from __future__ import annotations

from scipy.special import bdtr, stdtrit


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
