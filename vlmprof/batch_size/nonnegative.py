"""Least squares with coefficients that are not negative, on numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
TOLERANCE = 1e-10
ROUNDS = 3


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """The ``x >= 0`` that makes ``|matrix x - target|`` least.

    The active-set method of Lawson and Hanson (1974, "Solving Least Squares Problems", chapter 23): columns enter the
    passive set one by one where the gradient promises most, and leave it where a full step would make them negative.

    Args:
        matrix: (rows, columns)
        target: (rows,)

    Returns:
        (columns,)
    """
    columns = matrix.shape[1]
    gram, moment = matrix.T @ matrix, matrix.T @ target
    x, passive = np.zeros(columns), np.zeros(columns, dtype=bool)
    slack = TOLERANCE * max(1.0, float(np.abs(moment).max(initial=0.0)))
    for _ in range(ROUNDS * columns):
        gradient = np.where(passive, -np.inf, moment - gram @ x)
        best = int(gradient.argmax())
        if gradient[best] <= slack:
            break
        passive[best] = True
        x = _feasible(gram, moment, x, passive)
    return x


def _feasible(gram: Array, moment: Array, x: Array, passive: np.ndarray[Any, np.dtype[np.bool_]]) -> Array:
    """The least-squares point of the passive columns, or where the way to it first meets zero, again and again."""
    while passive.any():
        full = np.zeros_like(x)
        inner = gram[np.ix_(passive, passive)]
        full[passive] = np.linalg.lstsq(inner, moment[passive], rcond=None)[0]
        down = passive & (full <= 0)
        if not down.any():
            return full
        step = float(np.min(x[down] / np.maximum(x[down] - full[down], 1e-300)))
        x = x + step * (full - x)
        passive &= x > TOLERANCE * float(np.abs(x).max(initial=1e-300))
        x = np.where(passive, x, 0.0)
    return np.zeros_like(x)
