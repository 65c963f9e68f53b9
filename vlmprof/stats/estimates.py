"""Estimates with standard errors: intervals, one-sided bounds and p-values by Student's t, and Holm's adjustment.

One class for differences of scores and for logarithms of ratios of times alike, so that whatever is compared is judged
in one way. Degrees of freedom of a sum of variances are those of Welch and Satterthwaite (Satterthwaite 1946, Biometrics
Bull. 2:110).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.distributions import student_quantiles, student_tails

Numbers = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimates:
    """Estimates, each with what is known of its error; NaN where there is none."""

    value: Numbers
    """(n,)"""
    error: Numbers
    """(n,): standard errors; 0 where the value is exact."""
    freedom: Numbers
    """(n,): degrees of freedom of the errors, above 0; infinite where they are known."""

    def ends(self, confidence: float = 0.95) -> tuple[Numbers, Numbers]:
        """Lower and upper ends of two-sided intervals, (n,) each."""
        half = student_quantiles((1 + confidence) / 2, self.freedom) * self.error
        return self.value - half, self.value + half

    def bounds(self, chance: float) -> tuple[Numbers, Numbers]:
        """Lower and upper one-sided bounds: the truth is beyond each with this chance at most.

        Args:
            chance: For a family of ``m`` statements 0.05 / m: then with 95 % all bounds hold (Bonferroni; for "is there
                any?" it is the first step of Holm's procedure, and as sharp).
        """
        reach = student_quantiles(1 - chance, self.freedom) * self.error
        return self.value - reach, self.value + reach

    def p_values(self) -> Numbers:
        """(n,): two-sided p-values of "it is 0"; 1 where it is exactly 0, 0 where it exactly is not."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.value == 0, 0.0, np.abs(self.value) / self.error)
        found = 2 * student_tails(t, self.freedom)
        return np.asarray(np.where(np.isnan(self.value), np.nan, np.minimum(1.0, found)))


def welch_freedom(variances: Sequence[Numbers], freedoms: Sequence[Numbers]) -> Numbers:
    """Degrees of freedom of a sum of independently estimated variances: ``(sum v)^2 / sum (v^2 / f)``.

    Args:
        variances: Of each part, (n,).
        freedoms: Of each part, (n,), above 0; infinite for a variance that is known.

    Returns:
        (n,); infinite where all parts are known or 0.
    """
    total = np.sum(variances, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.sum([v**2 / f for v, f in zip(variances, freedoms, strict=True)], axis=0)
        return np.asarray(np.where(shares > 0, total**2 / shares, np.inf))


def holm(p_values: Numbers) -> Numbers:
    """P-values adjusted for all that are looked at (Holm 1979, Scand. J. Stat. 6:65); NaN stays and does not count.

    Whoever calls those below 0.05 different is wrong anywhere in at most 5 % of such tables, however the values depend
    on each other.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    adjusted = np.full(len(p_values), np.nan)
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped)) if len(order) else stepped
    return adjusted
