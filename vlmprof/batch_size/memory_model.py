"""The memory model: how much memory a batch takes, learnt from all probes with one memory key together.

Above what the process holds anyway, a peak is ``a + b * (theta . phi(x))`` for batch size ``b`` and a configuration's
demand ``x``, with products of demands as features and no coefficient below zero, so that the prediction never falls
when a knob or the batch grows. What a real device adds to that (the peak of another phase takes over, workspaces grow
in steps) is smooth over neighbouring configurations, and is modelled by a Gaussian process on the relative residuals.
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

MIN_POINTS = 5
MAX_POINTS = 250
"""The newest are used; the cost of a fit grows with their cube."""
MAX_AXES = 6
NOISE = 0.012
"""Relative standard deviation of one peak: the same batch does not always take the same."""
RESIDUAL = 0.12
"""Relative standard deviation of real peaks from the sum of products."""
COEFFICIENT_DOUBT = 0.2
"""Relative standard deviation of a coefficient before any fit, as a share of its value if its feature were the only
one."""
LENGTH_SCALE = 0.5
"""Distance on an axis (whose largest value is 1) over which the residual stays about the same."""
LENGTH_SCALE_LOG_SIZE = 1.0
NNLS_ROUNDS = 30
"""Most iterations of a fit, for each feature. A fit that needs more raises. scipy's default of 3 sufficed for 1,500
random fits, but features that are nearly the same may need more."""
PHASE_SDS = 3.0
"""Phases are compared at their mean plus so many standard deviations."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """One worst-case batch that ran."""

    demand: Demand
    size: int
    amount: float
    """Peak less floor, in bytes; or seconds, which the same model predicts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes above the floor, with their uncertainty."""

    mean: float
    sd: float
    model_sd: float = math.inf
    """The relative standard deviation that the model gives, before the error of past predictions is added."""


Predict = Callable[[int], MemoryEstimate]
"""Batch size -> what the batch will take."""


@final
class MemoryModel:
    """A fit to the points of one memory key, which predicts what one more configuration takes."""

    def __init__(self, points: Sequence[MemoryPoint], demand: Demand) -> None:
        """Fit.

        Args:
            points: At least one.
            demand: Of the configuration to predict: only axes on which it or the points differ are features.

        Raises:
            RuntimeError: the least-squares fit did not end.
        """
        points = points[-MAX_POINTS:]
        self._axes = _Axes.of([*(point.demand for point in points), demand])
        self._demand = demand
        demands = np.array([self._axes.scaled(point.demand) for point in points])
        sizes = np.array([float(point.size) for point in points])
        amounts = np.array([point.amount for point in points])
        rows = _rows(demands, sizes)
        self._theta = _coefficients(rows / amounts[:, None])
        fitted = np.maximum(rows @ self._theta, 1.0)
        self._lone_theta = 1 / np.mean(rows / amounts[:, None], axis=0)  # each coefficient, if its feature were alone
        self._inputs = self._kernel_inputs(demands, sizes)
        self._terms = self._relative_terms(rows, fitted)
        covariance = self._covariance(self._inputs, self._terms) + NOISE**2 * np.eye(len(points))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ (amounts / fitted - 1)

    def prediction(self, past_error: float) -> Predict:
        """What a batch of the configuration will take.

        Args:
            past_error: Relative error of past predictions, added to the uncertainty.
        """
        scaled = self._axes.scaled(self._demand)[None]

        def predict(size: int) -> MemoryEstimate:
            row = _rows(scaled, np.array([float(size)]))
            fitted = np.maximum(row @ self._theta, 1.0)
            terms = self._relative_terms(row, fitted)
            covariance = self._covariance(self._kernel_inputs(scaled, np.array([float(size)])), terms)[0]
            mean = float(fitted[0]) * (1 + float(covariance @ self._weights))
            prior_variance = RESIDUAL**2 + float((terms**2).sum())
            variance = max(prior_variance - float(covariance @ self._inverse @ covariance), 0.0)
            model_sd = math.sqrt(variance + NOISE**2)
            return MemoryEstimate(mean=mean, sd=mean * math.hypot(model_sd, past_error), model_sd=model_sd)

        return predict

    def _kernel_inputs(self, demands: Array, sizes: Array) -> Array:
        return np.column_stack([demands / LENGTH_SCALE, np.log(sizes) / LENGTH_SCALE_LOG_SIZE])

    def _relative_terms(self, rows: Array, fitted: Array) -> Array:
        return np.asarray(COEFFICIENT_DOUBT * rows * self._lone_theta / fitted[:, None])

    def _covariance(self, inputs: Array, terms: Array) -> Array:
        """Relative covariance with the points: of a smooth residual, and of the uncertain coefficients."""
        distance = ((inputs[:, None, :] - self._inputs[None, :, :]) ** 2).sum(axis=-1)
        return np.asarray(RESIDUAL**2 * np.exp(-distance / 2) + terms @ self._terms.T)


def largest_within(predict: Predict, limit: float, sds: float, max_size: int) -> int:
    """The largest size whose mean plus ``sds`` standard deviations is at most ``limit`` bytes; 0 when none is."""

    def fits(size: int) -> bool:
        estimate = predict(size)
        return estimate.mean + sds * estimate.sd <= limit

    low, high = 0, 1
    while high <= max_size and fits(high):  # upwards from 1: far beyond its points a fit may decrease again
        low, high = high, high + 1 + high // 2
    high = min(high, max_size + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_phase(phases: Sequence[Predict]) -> Predict:
    """What a batch takes whose phases follow each other: as much as the phase that takes most.

    Which phase that is need not be known: the uncertainty reaches as far up as that of any phase.
    """

    def predict(size: int) -> MemoryEstimate:
        estimates = [phase(size) for phase in phases]
        mean = max(estimate.mean for estimate in estimates)
        sd = (max(estimate.mean + PHASE_SDS * estimate.sd for estimate in estimates) - mean) / PHASE_SDS
        highest = max(estimate.mean * (1 + PHASE_SDS * estimate.model_sd) for estimate in estimates)
        return MemoryEstimate(mean=mean, sd=sd, model_sd=(highest / mean - 1) / PHASE_SDS)

    return cache(predict)  # every search asks for the same few sizes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """The axes on which configurations differ, and the largest value on each."""

    names: tuple[str, ...]
    largest: Array

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> _Axes:
        names = [name for name, _ in demands[0]]
        values = np.array([[amount for _, amount in demand] for demand in demands])
        varying = [i for i in range(len(names)) if np.ptp(values[:, i]) > 0][:MAX_AXES]
        return cls(names=tuple(names[i] for i in varying), largest=values[:, varying].max(axis=0))

    def scaled(self, demand: Demand) -> Array:
        """The demand as shares of the largest values."""
        amounts = dict(demand)
        return np.array([amounts.get(name, 0.0) for name in self.names]) / self.largest


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
