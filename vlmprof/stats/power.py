"""How many samples it takes to tell two configurations apart, from the variance of their paired differences.

A difference ``d`` of accuracy is told at 95 % with a given power from ``n = (z(0.975) + z(power))^2 s^2 / d^2`` samples
(Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, 2nd ed., for paired means; Miller 2024, arXiv
2411.00640, for evaluations of language models). ``s^2`` is the variance of one sample's difference, with what questions
about one picture share: ``n`` times the cluster-robust variance of the mean. So ``n`` counts questions that come in
pictures as those of the sweep do; fewer questions a picture would need fewer in all.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
CONFIDENCE = 0.95


def standard_errors_needed(power: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors a difference must be for its interval to leave out 0 with this chance.

    Raises:
        ValueError: a power or a confidence that is not between 0 and 1.
    """
    if not (0 < power < 1 and 0 < confidence < 1):
        raise ValueError(f"expected a power and a confidence between 0 and 1, got {power} and {confidence}")
    normal = NormalDist()
    return normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)


def samples_needed(errors: Numbers, samples: int, difference: float, power: float) -> Numbers:
    """Samples from which a true difference of this size is told with this power.

    Args:
        errors: (pairs,): standard errors of the mean differences over ``samples`` samples.
        samples: Of the sweep.
        difference: Above 0.
        power: Between 0 and 1.

    Returns:
        (pairs,), whole numbers.

    Raises:
        ValueError: a difference that is not above 0, or a power that is not between 0 and 1.
    """
    if not (math.isfinite(difference) and difference > 0):
        raise ValueError(f"expected a difference above 0, got {difference}")
    reach = standard_errors_needed(power)
    return np.asarray(np.ceil(samples * (reach * np.asarray(errors) / difference) ** 2))


def smallest_difference(errors: Numbers, power: float) -> Numbers:
    """(pairs,): the smallest true difference that these samples tell with this power."""
    return np.asarray(standard_errors_needed(power) * np.asarray(errors))
