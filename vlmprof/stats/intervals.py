"""Confidence intervals of scores that come in clusters: of a mean, and of a function of sums over samples.

A question is not independent of the others about its image, and a score near 0 or 1 has no symmetric interval; so the
mean gets Wilson's interval at an effective sample size. Intervals of times are in ``timeseries``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.distributions import student_quantile

Numbers = NDArray[np.float64]
RESAMPLES = 2000
FEWEST_CLUSTERS = 30
_CHUNK = 100
"""Draws at a time, to bound memory: a draw holds one number for each cluster."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval, in the unit of what was measured."""

    low: float
    high: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInterval:
    """A mean and its interval, in the unit of what was measured."""

    mean: float
    low: float
    high: float


def columns_of(name: str, interval: MeanInterval | None) -> dict[str, float | None]:
    """``name``, ``name_low`` and ``name_high`` of a row; None where there is no interval."""
    mean, low, high = (interval.mean, interval.low, interval.high) if interval else (None, None, None)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def mean_interval(scores: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> MeanInterval:
    """The mean of scores from 0 to 1 and its interval; scores of one cluster may depend on each other.

    Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209) with ``effective_size`` for the sample size
    (compared with others for survey data by Franco, Little, Louis and Slud 2019, J. Surv. Stat. Methodol. 7:334). Its
    coverage in simulations, near 0 and 1 and for scores in thirds too, stands in docs/decisions.md.

    Raises:
        ValueError: there are no scores, one is outside 0 to 1, or the numbers of scores and clusters differ.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or len(clusters) != values.size:
        raise ValueError(f"expected scores and a cluster for each, got {values.size} and {len(clusters)}")
    if not ((values >= 0) & (values <= 1)).all():  # NaN compares as false
        raise ValueError(f"expected scores from 0 to 1, got {values[~((values >= 0) & (values <= 1))][0]}")
    return proportion_interval(float(values.mean()), effective_size(values, clusters, confidence), confidence)


def proportion_interval(share: float, size: float, confidence: float = 0.95) -> MeanInterval:
    """A share and Wilson's interval (Wilson 1927), at a sample size above 0 that need not be a whole number."""
    low, high = _wilson(share, size, NormalDist().inv_cdf((1 + confidence) / 2))
    # At the ends the interval touches the share, and rounding must not put the share outside.
    return MeanInterval(mean=share, low=max(0.0, min(low, share)), high=min(1.0, max(high, share)))


def effective_size(scores: Numbers, clusters: Sequence[Hashable], confidence: float = 0.95) -> float:
    """The number of independent yes-or-no answers with the same information as these scores.

    ``p (1 - p) / V``, where ``V`` is the cluster-robust variance of the mean by linearisation, ``G / (G - 1) * sum of
    (sum of the cluster's residuals)^2 / n^2`` (Miller 2024, arXiv 2411.00640, plus the small-sample factor), and at
    least the variance of ``n`` independent scores: clusters that balance by chance are no evidence. Scores between 0
    and 1 vary less than yes-or-no answers, so they may count more than ``n``.

    It is shrunk by ``(t[n - 1] / t[m - 1])^2``, after Korn and Graubard 1998 (Surv. Methodol. 24:193), who take the
    number of clusters for ``m``. Near 0 or 1 most clusters agree, and ``V`` comes from the few that do not, so ``m`` is
    the number of clusters that hold an answer of the minority. It is never shrunk below ``n^2 / sum of n_g^2``, what is
    left where all answers of a cluster agree. Where all scores agree, ``V`` is 0 and useless, and the number of
    clusters is returned, as for a single cluster.
    """
    n, mean = scores.size, float(scores.mean())
    codes, members = np.unique(_codes(clusters), return_inverse=True)
    groups = codes.size
    if groups == 1 or scores.min() == scores.max():
        return float(groups)
    sums = np.bincount(members, weights=scores - mean)
    variance = groups / (groups - 1) * float(sums @ sums) / n**2
    independent = mean * (1 - mean) / (n - 1)
    size = n * independent / max(variance, float(scores.var(ddof=1)) / n)
    if groups == n:
        return size
    minority = scores if mean <= 0.5 else 1 - scores
    holding = int((np.bincount(members, weights=minority) > 0).sum())
    alike = n**2 / float((np.bincount(members) ** 2).sum())
    narrower = student_quantile(confidence, n - 1) / student_quantile(confidence, max(1, holding - 1))
    return max(size * narrower**2, min(size, alike))


def bootstrap_interval(
    parts: Numbers,
    combine: Callable[[Numbers], Numbers],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
) -> Interval | None:
    """The interval of a function of sums over samples, by resampling whole clusters (bootstrap).

    Percentiles of ``RESAMPLES`` draws of as many clusters with replacement (Davison and Hinkley 1997, Bootstrap Methods
    and their Application, 2.4 and 3.8), with a fixed seed. None where it would be wrong: with fewer than
    ``FEWEST_CLUSTERS`` clusters, and where all draws agree, since that does not mean that the number is certain.

    Args:
        parts: (samples, k) contributions.
        combine: (..., k) sums -> (...) values.
        clusters: One for each sample; samples of one cluster may depend on each other.
        confidence: Share of such intervals that should contain the true value.
    """
    codes = _codes(clusters)
    groups = int(codes.max(initial=-1)) + 1
    if groups < FEWEST_CLUSTERS:
        return None
    sums = np.zeros((groups, parts.shape[1]))
    np.add.at(sums, codes, parts)
    generator = np.random.Generator(np.random.PCG64(0))
    uniform = np.full(groups, 1 / groups)
    values = np.concatenate(
        [
            combine(generator.multinomial(groups, uniform, size=_CHUNK).astype(np.float64) @ sums)
            for _ in range(RESAMPLES // _CHUNK)
        ]
    )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high)) if low < high else None


def _codes(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters])


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half
