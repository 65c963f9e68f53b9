"""How much memory a batch takes, learnt from every probe of a world together.

Above what the process holds anyway, a peak is ``a + b * (theta . phi(x))`` for batch size ``b`` and a configuration's
demand ``x``, with products of demands as features and no coefficient below zero, so that the prediction never falls
when a knob or the batch grows. What is left of a real device (the peak of another phase takes over, workspaces grow in
steps) is smooth over neighbouring configurations, and is added as a Gaussian process on the relative residuals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, final

import numpy as np

from vlmprof.batch_size.protocol import Demand

Array = np.ndarray[Any, np.dtype[np.float64]]

LEAST_POINTS = 5
MOST_POINTS = 250
"""The newest of them; the cost of a fit grows with their cube."""
MOST_AXES = 6
NOISE = 0.012
"""Relative, of one peak: the same batch does not take the same twice."""
BEND = 0.12
"""Relative: how far a real peak bends away from the products."""
DOUBT = 0.2
"""Relative: how far a coefficient may be off before anything is known, as a share of all there is."""
REACH = 0.5
"""Over so much of an axis (the most on it is 1) a bend is the same."""
REACH_LOG_SIZE = 1.0
NNLS_ROUNDS = 30
"""Most iterations of a fit, for each feature. A fit that needs more raises. scipy's default of 3 sufficed for 1,500
random fits, but features that are nearly the same may need more."""
FAR = 3.0
"""Standard deviations at which phases are compared."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """One worst-case batch that ran; the model serves for its seconds as it does for its bytes."""

    demand: Demand
    size: int
    grown: float
    """Peak less floor, in bytes; or seconds."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes above the floor, and how sure."""

    mean: float
    sd: float
    claimed: float = math.inf
    """The standard deviation that the model claims by itself, relative, before any distrust of it."""


Predict = Callable[[int], MemoryEstimate]
"""Batch size -> what it will take."""


@final
class MemoryModel:
    """A fit to the points of one world, to say what one more configuration takes."""

    def __init__(self, points: Sequence[MemoryPoint], demand: Demand) -> None:
        """Fit.

        Args:
            points: At least one.
            demand: Of the configuration that will be asked about: the axes on which it or the points differ count.
        """
        points = points[-MOST_POINTS:]
        self._axes = _Axes.of([*(point.demand for point in points), demand])
        self._load = demand
        demands = np.array([self._axes.scaled(point.demand) for point in points])
        sizes = np.array([float(point.size) for point in points])
        grown = np.array([point.grown for point in points])
        rows = _rows(demands, sizes)
        self._theta = _coefficients(rows / grown[:, None])
        fitted = np.maximum(rows @ self._theta, 1.0)
        self._whole = 1 / np.mean(rows / grown[:, None], axis=0)  # each coefficient, were its feature all there is
        self._places = self._placed(demands, sizes)
        self._terms = self._relative(rows, fitted)
        covariance = self._kernel(self._places, self._terms) + NOISE**2 * np.eye(len(points))
        self._inverse = np.linalg.inv(covariance)
        self._pull = self._inverse @ (grown / fitted - 1)

    def prediction(self, distrust: float) -> Predict:
        """What a batch of the configuration will take.

        Args:
            distrust: Relative error of past predictions, added to the uncertainty.
        """
        scaled = self._axes.scaled(self._load)[None]

        def predict(size: int) -> MemoryEstimate:
            row = _rows(scaled, np.array([float(size)]))
            smooth = np.maximum(row @ self._theta, 1.0)
            terms = self._relative(row, smooth)
            here = self._kernel(self._placed(scaled, np.array([float(size)])), terms)[0]
            mean = float(smooth[0]) * (1 + float(here @ self._pull))
            prior = BEND**2 + float((terms**2).sum())
            spread = max(prior - float(here @ self._inverse @ here), 0.0)
            claimed = math.sqrt(spread + NOISE**2)
            return MemoryEstimate(mean=mean, sd=mean * math.hypot(claimed, distrust), claimed=claimed)

        return predict

    def _placed(self, demands: Array, sizes: Array) -> Array:
        return np.column_stack([demands / REACH, np.log(sizes) / REACH_LOG_SIZE])

    def _relative(self, rows: Array, fitted: Array) -> Array:
        return np.asarray(DOUBT * rows * self._whole / fitted[:, None])

    def _kernel(self, places: Array, terms: Array) -> Array:
        """Covariance with the points, relative: of bends that are smooth, and of coefficients not yet known."""
        distance = ((places[:, None, :] - self._places[None, :, :]) ** 2).sum(axis=-1)
        return np.asarray(BEND**2 * np.exp(-distance / 2) + terms @ self._terms.T)


def largest(predict: Predict, room: float, deviations: float, most: int) -> int:
    """The largest size whose mean plus so many standard deviations stays within ``room`` bytes; 0 when none does."""

    def fits(size: int) -> bool:
        expected = predict(size)
        return expected.mean + deviations * expected.sd <= room

    low, high = 0, 1
    while high <= most and fits(high):  # upwards from 1: far beyond its points a fit may bend down again
        low, high = high, high + 1 + high // 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def most_of(phases: Sequence[Predict]) -> Predict:
    """What a batch takes whose phases follow each other: as much as the one that takes most.

    Which that is need not be known: the uncertainty reaches as far as that of any phase.
    """

    def predict(size: int) -> MemoryEstimate:
        every = [phase(size) for phase in phases]
        mean = max(one.mean for one in every)
        sd = (max(one.mean + FAR * one.sd for one in every) - mean) / FAR
        claimed = max(one.mean * (1 + FAR * one.claimed) for one in every) / mean - 1
        return MemoryEstimate(mean=mean, sd=sd, claimed=claimed / FAR)

    return cache(predict)  # every search asks about the same few sizes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """The axes on which configurations differ, and the most there is on each."""

    names: tuple[str, ...]
    most: Array

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> _Axes:
        names = [name for name, _ in demands[0]]
        values = np.array([[amount for _, amount in demand] for demand in demands])
        vary = [i for i in range(len(names)) if np.ptp(values[:, i]) > 0][:MOST_AXES]
        return cls(names=tuple(names[i] for i in vary), most=values[:, vary].max(axis=0))

    def scaled(self, demand: Demand) -> Array:
        """As shares of the most."""
        amounts = dict(demand)
        return np.array([amounts.get(name, 0.0) for name in self.names]) / self.most


def _rows(demands: Array, sizes: Array) -> Array:
    """(points, features): a constant, and the batch size times every product of up to three demands."""
    axes = range(demands.shape[1])
    products = [np.ones(len(demands))]
    for count in (1, 2, 3):
        products += [np.prod(demands[:, list(chosen)], axis=1) for chosen in combinations(axes, count)]
    return np.column_stack([np.ones(len(demands)), np.column_stack(products) * sizes[:, None]])


def _coefficients(relative: Array) -> Array:
    """The coefficients, none below zero, that predict every peak with the least relative error.

    Args:
        relative: (points, features), each point's features over its bytes; all above zero.

    Returns:
        (features,), in bytes.
    """
    from scipy.optimize import nnls  # here, since commands that only list sizes import this file too

    # Columns of one length: as they come they differ by many orders of magnitude, and nnls compares their gradients.
    lengths = np.linalg.norm(relative, axis=0)
    theta, _ = nnls(relative / lengths, np.ones(len(relative)), maxiter=NNLS_ROUNDS * relative.shape[1])
    return np.asarray(theta / lengths)
