"""Predicts the latency of prompts that were not timed from those that were: one physically signed model for each stage.

A few requests are timed, a task has hundreds of prompts. What a stage costs follows from the sizes of its work: the
vision encoder's crops, the connector's vision tokens, the prompt's tokens once (products with weights) and squared
(attention), a decode step's keys and values. Every coefficient is a price and therefore not negative; they are fitted
by non-negative least squares of relative errors. How far a prediction may be off comes from leaving each request out
in turn (jackknife), so a form that does not fit shows as a wide interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from vlmprof.stats.distributions import student_quantile

FEWEST = 6
"""Requests of distinct sizes that a model is fitted to, at least."""
Matrix = npt.NDArray[np.float64]


@final
class PromptSize(NamedTuple):
    """The work of one prompt."""

    crops: int
    vision_tokens: int
    prompt_tokens: int


PRICES: Mapping[str, Callable[[PromptSize], tuple[float, ...]]] = {
    "preprocess": lambda size: (1.0, size.crops),
    "transfer": lambda size: (1.0, size.crops),
    "vision": lambda size: (1.0, size.crops),
    "connector": lambda size: (1.0, size.vision_tokens),
    "prefill": lambda size: (1.0, size.prompt_tokens, size.prompt_tokens**2),
    "decode": lambda size: (1.0, size.prompt_tokens),
}
"""Stage -> what it is charged for; every quantity has one price."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """The latency of one prompt, in ms."""

    ms: float
    low: float
    """Lower end of the 95 % prediction interval."""
    high: float
    stages: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """Fitted to the stages of timed requests."""

    prices: Mapping[str, tuple[float, ...]]
    relative_half_width: float
    """Half the width of the 95 % prediction interval, as a share of the prediction."""
    left_out_errors: tuple[float, ...]
    """Of each request, predicted from the others: what was measured less the prediction, as a share of the latter."""

    def predict(self, size: PromptSize) -> PredictedLatency:
        """The latency of a prompt of this size."""
        stages = _predicted(self.prices, size)
        ms = sum(stages.values())
        half = self.relative_half_width * ms
        return PredictedLatency(ms=ms, low=max(0.0, ms - half), high=ms + half, stages=stages)


def fit_stage_model(sizes: Sequence[PromptSize], stages: Mapping[str, Sequence[float]]) -> StageModel | None:
    """Fit a model to timed requests of one prompt each.

    Args:
        sizes: Of each request.
        stages: Stage -> its time for each request, in ms; stages that were not measured are left out.

    Returns:
        None for requests of fewer than ``FEWEST`` distinct sizes.

    Raises:
        ValueError: a time is negative or not finite, or a stage has not one time for each request.
    """
    for stage, times in stages.items():
        if len(times) != len(sizes) or not all(math.isfinite(ms) and ms >= 0 for ms in times):
            raise ValueError(f"expected {len(sizes)} times of {stage}, finite and not negative, got {list(times)}")
    if len(set(sizes)) < FEWEST:
        return None
    totals = [sum(times[i] for times in stages.values()) for i in range(len(sizes))]
    errors = []
    for i, size in enumerate(sizes):
        others = [j for j in range(len(sizes)) if j != i]
        prices = _prices([sizes[j] for j in others], {s: [times[j] for j in others] for s, times in stages.items()})
        predicted = sum(_predicted(prices, size).values())
        errors.append(totals[i] / predicted - 1 if predicted else 0.0)
    n = len(sizes)
    spread = math.sqrt(sum(error**2 for error in errors) / n)
    half = student_quantile(0.95, n - 1) * spread * math.sqrt(1 + 1 / n)
    return StageModel(prices=_prices(sizes, stages), relative_half_width=half, left_out_errors=tuple(errors))


def _prices(sizes: Sequence[PromptSize], stages: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    from scipy.optimize import nnls  # here, since commands that time nothing import this file too

    prices = {}
    for stage, times in stages.items():
        quantities: Matrix = np.array([PRICES[stage](size) for size in sizes], dtype=np.float64)
        weights = 1 / np.maximum(np.asarray(times, dtype=np.float64), 1e-6)
        relative = quantities * weights[:, None]
        lengths = np.linalg.norm(relative, axis=0)
        lengths[lengths == 0] = 1.0
        # Columns of one length: as they come they differ by orders of magnitude, and nnls compares their gradients.
        theta, _ = nnls(relative / lengths, np.asarray(times, dtype=np.float64) * weights)
        prices[stage] = tuple(float(price) for price in theta / lengths)
    return prices


def _predicted(prices: Mapping[str, tuple[float, ...]], size: PromptSize) -> dict[str, float]:
    return {
        stage: float(sum(price * quantity for price, quantity in zip(of_stage, PRICES[stage](size), strict=True)))
        for stage, of_stage in prices.items()
    }
