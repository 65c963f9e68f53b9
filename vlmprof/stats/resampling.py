"""Joint draws of what a sweep measured: scores of all configurations on the same samples, and their latencies.

All configurations answer the same questions, so their errors move together, and questions about one picture depend on
each other. So whole pictures (clusters) are drawn with replacement, and one draw holds for all configurations (Davison
and Hinkley 1997, Bootstrap Methods and their Application, 2.4 and 3.8; for evaluations Miller 2024, arXiv 2411.00640).
A draw is a row of counts, and the means of all configurations are one matrix product.

Times depend on the machine alone. They are drawn on the logarithmic scale: what the blocks of a session leave open, and
what a load of the model shifts as a whole (the process effect), which no single process can see in itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats import timeseries

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]
DRAWS = 2000
PROCESS_EFFECT = 0.004
"""The prior of the spread of a latency from one load of the model to the next, as a share, where no configuration was
timed by two processes (Kalibera and Jones 2013, ISMM, find 0.1 to 2 % between executions of one binary)."""
FEWEST_CLUSTERS = 2
_CHUNK_BYTES = 64 * 1024**2


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedScores:
    """Scores of all configurations on the samples that all of them answered."""

    scores: Numbers
    """(samples, configurations), finite."""
    clusters: Codes
    """(samples,): equal for samples that may depend on each other."""
    weights: Numbers | None = None
    """(samples,): how many samples of the population each stands for, up to a factor; None: all alike."""
    strata: Codes | None = None
    """(samples,): parts of the population that were sampled separately; whole clusters lie in one. None: one part."""

    def __post_init__(self) -> None:
        samples = len(self.scores)
        if self.scores.ndim != 2 or not self.scores.size:
            raise ValueError(f"expected scores of samples x configurations, got shape {self.scores.shape}")
        if not np.isfinite(self.scores).all():
            bad = int((~np.isfinite(self.scores)).any(axis=1).sum())
            raise ValueError(f"expected finite scores, {bad} of {samples} samples have others")
        for name in ("clusters", "weights", "strata"):
            values = getattr(self, name)
            if values is not None and len(values) != samples:
                raise ValueError(f"expected {name} of {samples} samples, got {len(values)}")
        if self.weights is not None and not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise ValueError("expected weights above 0")

    @property
    def means(self) -> Numbers:
        """(configurations,): the weighted mean score of each."""
        return np.asarray(np.average(self.scores, axis=0, weights=self.weights))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Totals:
    """Sums over clusters: what a draw adds up."""

    scores: Numbers
    """(clusters, configurations)"""
    weights: Numbers
    """(clusters,)"""
    strata: tuple[Codes, ...]
    """The clusters of each stratum."""


def mean_draws(paired: PairedScores, draws: int = DRAWS, seed: int = 0) -> Numbers:
    """Bootstrap draws of the mean scores: the same clusters for all configurations.

    Within each stratum as many clusters as it has are drawn with replacement; a mean is the drawn sum of weighted
    scores over the drawn sum of weights.

    Returns:
        (draws, configurations).

    Raises:
        ValueError: a single cluster, of which nothing can be said, or a cluster that lies in two strata.
    """
    totals = _totals(paired)
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.column_stack([totals.scores, totals.weights])
    drawn = np.concatenate([counts @ sums for counts in _counts(totals, draws, generator)])
    return np.asarray(drawn[:, :-1] / drawn[:, -1:])


def mean_covariance(paired: PairedScores) -> Numbers:
    """The covariance of the mean scores by linearisation: of sums over clusters of weighted residuals.

    ``sum over strata of G / (G - 1) * R' R / (sum of weights)^2``, where the rows of ``R`` are the clusters' sums of
    residuals less their mean over the stratum (Cochran 1977, Sampling Techniques, 5.4 and 11; for one stratum Miller
    2024). A stratum of one cluster adds nothing, as it has nothing to vary with.

    Returns:
        (configurations, configurations).

    Raises:
        ValueError: as ``mean_draws``.
    """
    totals = _totals(paired)
    residuals = totals.scores - totals.weights[:, None] * paired.means
    found = np.zeros((residuals.shape[1], residuals.shape[1]))
    for members in totals.strata:
        part = residuals[members]
        if len(part) > 1:
            part = part - part.mean(axis=0)
            found += len(part) / (len(part) - 1) * (part.T @ part)
    return np.asarray(found / totals.weights.sum() ** 2)


def cluster_sums(paired: PairedScores) -> Numbers:
    """(clusters, configurations): the weighted sum of the scores of each cluster."""
    return _totals(paired).scores


def macro_average(draws: Sequence[Numbers], weights: Sequence[float] | None = None) -> Numbers:
    """Draws of the mean over tasks, from the draws of each task: tasks are sampled independently of each other.

    Args:
        draws: Of each task, (draws, configurations), with a seed of its own each; also the means, (configurations,).
        weights: Of each task; None: all alike.

    Raises:
        ValueError: no tasks, or not the same draws and configurations in all of them.
    """
    if not draws or len({part.shape for part in draws}) > 1:
        raise ValueError(f"expected draws of one shape for each task, got {[part.shape for part in draws]}")
    return np.asarray(np.average(np.stack(list(draws)), axis=0, weights=weights))


def _totals(paired: PairedScores) -> _Totals:
    names, members = np.unique(paired.clusters, return_inverse=True)
    groups = len(names)
    if groups < FEWEST_CLUSTERS:
        raise ValueError(f"expected two clusters or more, got {groups}: how far one is from others cannot be known")
    weights = np.ones(len(members)) if paired.weights is None else paired.weights
    order = np.argsort(members, kind="stable")
    starts = np.searchsorted(members[order], np.arange(groups))
    scores = np.add.reduceat(paired.scores[order] * weights[order, None], starts, axis=0)
    strata: tuple[Codes, ...] = (np.arange(groups),)
    if paired.strata is not None:
        of_first = paired.strata[order][starts]
        if (of_first[members] != paired.strata).any():
            raise ValueError("expected each cluster in one stratum: samples of one cluster lie in two")
        strata = tuple(np.flatnonzero(of_first == stratum) for stratum in np.unique(of_first))
    sums = np.bincount(members, weights=weights, minlength=groups).astype(np.float64)
    return _Totals(scores=scores, weights=sums, strata=strata)


def _counts(totals: _Totals, draws: int, generator: np.random.Generator) -> Iterator[Numbers]:
    """How often each cluster was drawn, some draws at a time: (draws, clusters)."""
    groups = len(totals.weights)
    chunk = max(1, _CHUNK_BYTES // (8 * groups))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        counts = np.zeros((rows, groups))
        for members in totals.strata:
            size = len(members)
            picks = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
            counts[:, members] = np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)
        yield counts


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogTimes:
    """How far the latencies of configurations may be from the truth, on the logarithmic scale."""

    within: Numbers
    """(configurations,): standard error that the times of the sessions leave."""
    freedom: Numbers
    """(configurations,): its degrees of freedom."""
    processes: NDArray[np.int64]
    """(configurations,): sessions that each was timed in; the model was loaded again for each."""
    process_effect: float
    """Standard deviation from one process to the next."""
    process_freedom: float
    """Degrees of freedom of that; infinite for the prior."""

    @property
    def is_measured(self) -> bool:
        """Whether the process effect was measured; else it is the prior."""
        return math.isfinite(self.process_freedom)

    @property
    def errors(self) -> Numbers:
        """(configurations,): the standard error of each."""
        return np.sqrt(self.within**2 + self.process_effect**2 / self.processes)

    @property
    def words(self) -> str:
        """Where the process effect comes from, for captions."""
        share = f"{100 * self.process_effect:.2g} %"
        if self.is_measured:
            return f"latency from process to process {share}, measured"
        return f"latency from process to process {share}, assumed (timing.processes: 2 or more measures it)"

    def draws(self, draws: int = DRAWS, seed: int = 0) -> Numbers:
        """(draws, configurations): draws of the logarithm of true over measured latency.

        Student's t for what was estimated from few blocks; one factor for all configurations for the process effect,
        which was estimated from all of them together.
        """
        generator = np.random.Generator(np.random.PCG64(seed))
        shape = (draws, len(self.within))
        noise = self.within * generator.standard_t(self.freedom, shape)
        scale = np.ones((draws, 1))
        if self.is_measured:
            scale = np.sqrt(self.process_freedom / generator.chisquare(self.process_freedom, (draws, 1)))
        effect = self.process_effect / np.sqrt(self.processes) * generator.standard_normal(shape) * scale
        return np.asarray(noise + effect)


def log_times(sessions: Sequence[Sequence[Sequence[float]]], prior: float = PROCESS_EFFECT) -> LogTimes:
    """How far latencies may be off, from the times of their blocks.

    Within a session: the standard error of a median, ``sqrt(pi / 2) s / sqrt(n_eff)``, of its times, where ``n_eff`` is
    ``timeseries.effective_repeats``. Between sessions: the variance of the logarithms of their medians, pooled over all
    configurations with two or more, less what the times within leave open. Where no configuration has two, ``prior``.

    Args:
        sessions: configuration -> session -> its times in order, above 0: means of groups of consecutive generations,
            each relative to the median of its request, times the mean over requests. At least one session each.
        prior: Of the process effect.

    Raises:
        ValueError: a configuration without times, or a time that is not above 0.
    """
    for number, of_configuration in enumerate(sessions):
        if not of_configuration or not all(of_configuration):
            raise ValueError(f"expected times of every session, configuration {number} has none")
        if not all(math.isfinite(time) and time > 0 for times in of_configuration for time in times):
            raise ValueError(f"expected times above 0, configuration {number} has others")
    errors = [[_error_of_median(times) for times in of_configuration] for of_configuration in sessions]
    within = np.array([math.sqrt(sum(e**2 for e, _ in each)) / len(each) for each in errors])
    freedom = np.array([max(1.0, sum(f for _, f in each)) for each in errors])
    several = [i for i, of_configuration in enumerate(sessions) if len(of_configuration) > 1]
    effect, effect_freedom = prior, math.inf
    if several:
        between = [
            (len(sessions[i]) - 1, statistics.variance(math.log(statistics.median(times)) for times in sessions[i]))
            for i in several
        ]
        effect_freedom = float(sum(n for n, _ in between))
        pooled = sum(n * variance for n, variance in between) / effect_freedom
        explained = statistics.fmean(error**2 for i in several for error, _ in errors[i])
        effect = math.sqrt(max(0.0, pooled - explained))
    processes = np.array([len(of_configuration) for of_configuration in sessions])
    return LogTimes(
        within=within, freedom=freedom, processes=processes, process_effect=effect, process_freedom=effect_freedom
    )


def _error_of_median(times: Sequence[float]) -> tuple[float, float]:
    """The standard error of the logarithm of the median of these times, and its degrees of freedom."""
    if len(times) < 2:
        return 0.0, 0.0  # nothing to tell it from; the process effect remains
    logs = [math.log(time) for time in times]
    effective = max(2.0, timeseries.effective_repeats(logs))
    # Not statistics.stdev, whose exact fractions take ten times as long.
    return math.sqrt(math.pi / 2) * float(np.std(logs, ddof=1)) / math.sqrt(effective), effective - 1
