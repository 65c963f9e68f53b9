"""How factors act together in a full factorial table: variance by main effect, pair and triple, contrasts, and a test.

A table has an axis for each factor and a mean in each cell. It splits into orthogonal components, one for each set of
factors: of one factor its main effect, of two what both do beyond the sum of their main effects, and so on (functional
ANOVA; Sobol 1993, Math. Model. Comput. Exp. 1:407). Cells are measured with errors that move together, as all were
measured on the same samples, and errors alone make an interaction seem to be there; so everything here takes the
covariance of the cells, or draws of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from vlmprof.stats.intervals import MeanInterval

Numbers = NDArray[np.float64]
Factors = tuple[int, ...]
FLIPS = 2000
_CHUNK_BYTES = 64 * 1024**2
_ROUNDING = 1e-12


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What one set of factors contributes to the variance of a table."""

    factors: Factors
    """Axes of the table, rising."""
    deviation: MeanInterval
    """Root mean square over the cells, in the unit of the table, without what errors of measurement add."""
    share: MeanInterval | None
    """Of the variance of the table without errors; None where no variance is left."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference of cells, or a difference of differences, and its 95 % interval."""

    value: float
    low: float
    high: float
    together_low: float
    """``together_low`` to ``together_high``: all contrasts that were asked for at once hold the truth in 95 %."""
    together_high: float


def sets_of(factors: int, most: int = 3) -> Iterator[Factors]:
    """All sets of 1 to ``most`` of so many factors, small ones first."""
    for size in range(1, min(most, factors) + 1):
        yield from itertools.combinations(range(factors), size)


def component(tables: Numbers, factors: Sequence[int], count: int) -> Numbers:
    """The component of these factors, of each table.

    Over axes of other factors the mean is taken, from axes of these the mean is subtracted: orthogonal projections, and
    all 2 ** count of them add up to the table.

    Args:
        tables: (..., one axis a factor).
        factors: Axes, counted from the first one of a factor.
        count: How many factors there are.
    """
    found = tables
    first = tables.ndim - count
    for axis in range(count):
        mean = found.mean(axis=first + axis, keepdims=True)
        found = found - mean if axis in factors else np.broadcast_to(mean, found.shape)
    return np.asarray(found)


def decompose(means: Numbers, draws: Numbers, covariance: Numbers, most: int = 3) -> list[Component]:
    """The components of up to ``most`` factors; those that are not listed take part in the total.

    A sum of squares of means measured with error is too large by the trace of the projected covariance, which is
    subtracted (Searle, Casella and McCulloch 1992, Variance Components, 3). A deviation is 0 where less than that is
    left. Its interval inverts a noncentral chi-square distribution, scaled to the mean and variance that the projected
    covariance gives (``_squares_interval``). Shares have percentiles of draws, each without twice the trace: a draw
    adds the errors once more.

    Args:
        means: One axis a factor.
        draws: (draws, the same axes), around ``means``.
        covariance: (cells, cells), cells in the order of ``means.ravel()``.
        most: Factors in a component.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    cells, count = means.size, means.ndim
    if draws.shape[1:] != means.shape or covariance.shape != (cells, cells):
        raise ValueError(f"expected draws and covariance of {means.shape}, got {draws.shape} and {covariance.shape}")
    every = list(sets_of(count, count))
    projected = {factors: _projected(covariance, factors, means.shape) for factors in every}
    of_noise = {factors: float(np.trace(matrix)) for factors, matrix in projected.items()}
    squares = {factors: _squares(means[None], factors)[0] for factors in every}
    corrected = {factors: max(0.0, squares[factors] - of_noise[factors]) for factors in every}
    drawn = {factors: np.maximum(0.0, _squares(draws, factors) - 2 * of_noise[factors]) for factors in every}
    total, drawn_total = sum(corrected.values()), np.sum(list(drawn.values()), axis=0)
    found = []
    for factors in (one for one in every if len(one) <= most):
        low, high = _squares_interval(squares[factors], projected[factors])
        middle = corrected[factors]
        deviation = [math.sqrt(square / cells) for square in (middle, min(low, middle), max(high, middle))]
        share = _share(middle, total, drawn[factors], drawn_total)
        found.append(
            Component(
                factors=factors,
                deviation=MeanInterval(mean=deviation[0], low=deviation[1], high=deviation[2]),
                share=share,
            )
        )
    return found


def _projected(covariance: Numbers, factors: Factors, levels: tuple[int, ...]) -> Numbers:
    """The covariance of the component of these factors, as (cells, cells)."""
    cells, count = len(covariance), len(levels)
    half = component(covariance.reshape(cells, *levels), factors, count).reshape(cells, cells)
    return component(half.T.reshape(cells, *levels), factors, count).reshape(cells, cells)


def _squares(tables: Numbers, factors: Factors) -> Numbers:
    parts = component(tables, factors, tables.ndim - 1)
    return np.asarray((parts.reshape(len(parts), -1) ** 2).sum(axis=1))


def _share(middle: float, total: float, drawn: Numbers, drawn_total: Numbers) -> MeanInterval | None:
    if total <= 0:
        return None
    shares = drawn[drawn_total > 0] / drawn_total[drawn_total > 0]
    mean = middle / total
    low, high = np.quantile(shares, [0.025, 0.975]) if len(shares) else (0.0, 1.0)
    return MeanInterval(mean=mean, low=min(float(low), mean), high=max(float(high), mean))


def _squares_interval(squares: float, covariance: Numbers) -> tuple[float, float]:
    """A 95 % interval for the sum of squares of what was measured with this covariance.

    The measured sum over ``c`` is taken as noncentral chi-square with ``f`` degrees of freedom, ``c`` and ``f`` such
    that without a signal mean and variance are right (Satterthwaite 1946, Biometrics Bull. 2:110), and both ends are
    the noncentralities at which it lies at 2.5 % and 97.5 %. Exact where the errors of all cells are alike.
    """
    trace, of_squares = float(np.trace(covariance)), float((covariance**2).sum())
    if trace <= _ROUNDING * max(squares, _ROUNDING):
        return squares, squares
    scale, freedom = of_squares / trace, trace**2 / of_squares
    measured = squares / scale

    def end(share: float) -> float:
        def off(signal: float) -> float:
            return (
                float(stats.ncx2.cdf(measured, freedom, signal)) - share
                if signal > 0
                else (float(stats.chi2.cdf(measured, freedom)) - share)
            )

        if off(0.0) <= 0:
            return 0.0
        most = 4 * (measured + freedom + 40)
        return float(optimize.brentq(off, 0.0, most, xtol=1e-6 * max(1.0, measured)))

    return scale * end(0.975), scale * end(0.025)


def interaction_test(sums: Numbers, factors: Factors, flips: int = FLIPS, seed: int = 0) -> float:
    """The probability, without an interaction of these factors, of one as large as was measured, by flipping signs.

    Null hypothesis: in the population of clusters the component of these factors is 0 in every cell, in the mean.
    What a cluster adds to each cell of the component then has the mean 0, so its sign is turned by chance, for all
    cells together, which keeps how the cells depend on each other. Exact where a cluster's part is symmetric around
    0; else for many clusters (Wu 1986, Ann. Stat. 14:1261; Canay, Romano and Shaikh 2017, Econometrica 85:1013).
    The statistic is the largest ``|sum| / sqrt(sum of squares)`` over the cells, which has its own scale in each.

    Args:
        sums: (clusters, one axis a factor): the sum of the scores of each cluster in each cell.
        factors: Axes, counted from the first one of a factor.
        flips: How many random sets of signs.
        seed: Of the signs.

    Returns:
        ``(1 + sets at least as large) / (1 + flips)``; 1 where no cluster adds anything.
    """
    parts = component(sums, factors, sums.ndim - 1).reshape(len(sums), -1)
    scale = np.sqrt((parts**2).sum(axis=0))
    varies = scale > _ROUNDING * max(1.0, float(np.abs(sums).max(initial=0.0)))
    if not varies.any():
        return 1.0
    parts = parts[:, varies] / scale[varies]
    measured = float(np.abs(parts.sum(axis=0)).max())
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, _CHUNK_BYTES // (8 * len(parts)))
    larger = 0
    for start in range(0, flips, chunk):
        signs = generator.integers(0, 2, (min(chunk, flips - start), len(parts))) * 2.0 - 1.0
        larger += int((np.abs(signs @ parts).max(axis=1) >= measured * (1 - 1e-9)).sum())
    return (1 + larger) / (1 + flips)


def drawn_interaction_test(means: Numbers, deviations: Numbers, factors: Factors) -> float:
    """The same for cells with errors that are drawn: times, which depend on the machine and not on samples.

    Null hypothesis: the component of these factors is 0 in every cell of the true table.

    Args:
        means: One axis a factor.
        deviations: (draws, the same axes): what a measured table may be off by.
        factors: Axes.
    """
    parts = component(deviations, factors, means.ndim).reshape(len(deviations), -1)
    scale = np.sqrt((parts**2).mean(axis=0))
    varies = scale > _ROUNDING
    if not varies.any():
        return 1.0
    measured = component(means[None], factors, means.ndim).reshape(-1)
    statistic = float((np.abs(measured[varies]) / scale[varies]).max())
    drawn = (np.abs(parts[:, varies]) / scale[varies]).max(axis=1)
    return (1 + int((drawn >= statistic * (1 - 1e-9)).sum())) / (1 + len(drawn))


def contrast_weights(levels: Sequence[int], changes: dict[int, tuple[int, int]], held: dict[int, int]) -> Numbers:
    """Weights of the cells in an effect: of changing each factor of ``changes`` from one level to another.

    Of one factor it is a difference, of two a difference of differences, and so on. Factors of ``held`` stand at a
    level, over all others the mean is taken.

    Args:
        levels: How many each factor has.
        changes: Axis -> (to, from).
        held: Axis -> level.

    Returns:
        With the shape of ``levels``.
    """
    found = np.ones(())
    for axis, count in enumerate(levels):
        weights = np.full(count, 1 / count)
        if axis in changes:
            to, base = changes[axis]
            weights = np.zeros(count)
            weights[to] += 1.0
            weights[base] -= 1.0
        elif axis in held:
            weights = np.zeros(count)
            weights[held[axis]] = 1.0
        found = np.multiply.outer(found, weights)
    return found


def contrasts(weights: Numbers, means: Numbers, covariance: Numbers, draws: Numbers, reach: float) -> list[Contrast]:
    """These contrasts, each with its interval and with one for all of them together.

    Alone: ``reach`` standard errors. Together: the 95 % quantile of the largest deviation over all contrasts, in
    standard errors, in draws (max-t; Westfall and Young 1993, Resampling-Based Multiple Testing, 2).

    Args:
        weights: (contrasts, cells).
        means: (cells,)
        covariance: (cells, cells)
        draws: (draws, cells), around ``means``.
        reach: Standard errors from the middle to an end.
    """
    values = weights @ means
    errors = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", weights, covariance, weights), 0.0))
    deviations = np.abs((draws - means) @ weights.T)
    known = errors > _ROUNDING
    largest = (deviations[:, known] / errors[known]).max(axis=1, initial=0.0)
    wider = max(reach, float(np.quantile(largest, 0.95)))
    return [
        Contrast(
            value=float(value),
            low=float(value - reach * error),
            high=float(value + reach * error),
            together_low=float(value - wider * error),
            together_high=float(value + wider * error),
        )
        for value, error in zip(values, errors, strict=True)
    ]
