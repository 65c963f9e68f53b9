"""Differences of two configurations on the same samples: interval, cluster bootstrap, McNemar's test.

Both answer the same questions, so the difference is a mean over samples of differences of scores, and its error is that
of this mean: usually far below what the intervals of the two accuracies suggest. Questions about one picture depend on
each other, so errors are those of sums over clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.distributions import binomial_cdf
from vlmprof.stats.estimates import Estimates
from vlmprof.stats.resampling import DRAWS, PairedScores, mean_covariance, mean_draws

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedDifferences:
    """Mean differences of scores; arrays have one entry a pair of configurations."""

    estimates: Estimates
    """By linearisation (``resampling.mean_covariance``), with clusters - 1 degrees of freedom. The error is at least that
    of one sample that differs: that no sample of these differs does not mean that none does."""
    drawn_low: Numbers
    """2.5 % and 97.5 % of draws of clusters with replacement (``resampling.mean_draws``)."""
    drawn_high: Numbers
    rose: Counts
    """Samples whose score rose."""
    fell: Counts
    samples: int
    clusters: int

    @property
    def mcnemar_p(self) -> Numbers:
        """McNemar's mid-p of each pair; it takes samples as independent, whatever their clusters."""
        return np.array([mcnemar_mid_p(int(r), int(f)) for r, f in zip(self.rose, self.fell, strict=True)])


def paired_differences(differences: PairedScores, draws: int = DRAWS) -> PairedDifferences:
    """Means of differences of scores.

    Args:
        differences: (samples, pairs): of each sample the score of the second configuration less that of the first.
        draws: Of the bootstrap; 0 leaves it out, and its ends are NaN.

    Raises:
        ValueError: all samples are of one cluster.
    """
    values, clusters = differences.scores, len(np.unique(differences.clusters))
    samples, pairs = values.shape
    variance = _variances(differences)
    low, high = np.full((2, pairs), np.nan)
    if draws:
        low, high = np.quantile(mean_draws(differences, draws), [0.025, 0.975], axis=0)
    return PairedDifferences(
        estimates=Estimates(
            value=differences.means,
            error=np.sqrt(np.maximum(variance, 1 / samples**2)),
            freedom=np.full(pairs, float(clusters - 1)),
        ),
        drawn_low=low,
        drawn_high=high,
        rose=(values > 0).sum(axis=0),
        fell=(values < 0).sum(axis=0),
        samples=samples,
        clusters=clusters,
    )


_AT_ONCE = 400
"""Pairs of which all covariances are computed at a time, of which only the variances are kept."""


def _variances(differences: PairedScores) -> Numbers:
    parts = range(0, differences.scores.shape[1], _AT_ONCE)
    of = [differences.scores[:, start : start + _AT_ONCE] for start in parts]
    return np.concatenate(
        [np.diag(mean_covariance(PairedScores(scores=part, clusters=differences.clusters))) for part in of]
    )


def is_binary(scores: Numbers) -> bool:
    """Whether all scores are 0 or 1, right or wrong; McNemar's test is about such."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def mcnemar_mid_p(better: int, worse: int) -> float:
    """Two-sided mid-p of McNemar's exact test: of the discordant pairs, is each side equally likely?

    Twice the smaller tail of Binomial(better + worse, 1/2), the observed count at half weight (Fagerland, Lydersen and
    Laake 2013, "The McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact
    conditional"). 1 without discordant pairs.
    """
    pairs, fewer = better + worse, min(better, worse)
    # Twice (the tail below the observed count, plus half of its own probability).
    return min(1.0, binomial_cdf(fewer, pairs, 0.5) + binomial_cdf(fewer - 1, pairs, 0.5))
