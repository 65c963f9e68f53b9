"""How sure a front is: which configurations are surely on it, which possibly, and what cannot be told apart.

The front of measured values is a front of near ties: in the simulations of ``tests/benchmarks/doubt.py`` up to 39 % of
the configurations on it are truly dominated, and up to 67 % of the true members are missed. One set cannot be both safe
and complete, so there are two. A configuration is *surely* on the front where it is in at least ``SURELY`` of joint
draws of all objectives: few of these are false. It is *possibly* on the front unless another configuration beats it in
every objective by more than ``BEATEN`` standard errors of their paired difference: few true members are not among
these. The thresholds were chosen by simulation, on other seeds than those of the error rates in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.estimates import NORMAL
from vlmprof.stats.fronts import (
    domination_shares,
    hypervolume,
    hypervolumes_of_draws,
    members_of_draws,
)
from vlmprof.stats.intervals import MeanInterval

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
SURELY = 0.9
BEATEN = 1.96
TOLD_APART = 1.96
BUDGET_NORMAL = 2.24
"""Standard errors to the ends of the best value within a budget: 2.5 % beyond both, as the budget itself, which may be
kept or not, takes another 2.5 %."""
MARGIN = 0.01
"""Of the box of the hypervolume, by which its reference point lies beyond the worst values."""
_RANKED = 400_000_000
"""Comparisons of two configurations in a draw, for the expected rank."""
_DRAWS_OF_MANY = 200
"""Draws for hypervolumes of three and more objectives, which have no formula for all draws at once."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnObjective:
    """One objective of all configurations as a cost, of which less is better, with draws of what it may truly be."""

    costs: Numbers
    """(configurations,): as measured."""
    draws: Numbers
    """(draws, configurations)"""
    errors: Numbers
    """(configurations, configurations): the standard error of each difference; 0 where it is exact."""

    @property
    def z(self) -> Numbers:
        """(configurations, configurations): by how many standard errors the row is better than the column.

        NaN where both are equal and that is exact, infinite where they differ and that is exact.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.costs[None, :] - self.costs[:, None]) / self.errors)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UncertainFront:
    """The front of all configurations with its doubt; arrays have one entry a configuration."""

    probability: Numbers
    """In which share of the draws it is on the front."""
    surely: Mask
    possibly: Mask
    """All that are surely on it are among them."""
    rank: Numbers
    """Expected rank of Fonseca and Fleming 1993: one more than the number of configurations that dominate it."""
    tie_group: NDArray[np.int64]
    """Equal, from 1, for configurations of which no two are told apart in any objective; 0 for one that ties none."""
    epsilon_front: Mask
    """Whether none would dominate it if it were better by epsilon in every objective."""
    hypervolume: MeanInterval | None
    """Share of the box between the best and the worst measured values that the front dominates; None where an objective
    has one value only, and so there is no box."""
    band_low: Numbers
    """(configurations, objectives): costs that with 95 % none of those possibly on the front truly is below."""
    band_high: Numbers
    """The same, above. The fronts of both are a band for the front."""


def uncertain_front(objectives: Sequence[DrawnObjective], epsilon: Sequence[float]) -> UncertainFront:
    """The front of these objectives with its doubt.

    Args:
        objectives: One or more, of the same configurations and the same number of draws.
        epsilon: Of each objective, in its cost; 0 or more.

    Raises:
        ValueError: the objectives do not fit each other.
    """
    shapes = {one.draws.shape for one in objectives}
    if len(shapes) != 1 or len(epsilon) != len(objectives):
        raise ValueError(f"expected objectives of one shape and an epsilon for each, got {shapes} and {len(epsilon)}")
    costs = np.column_stack([one.costs for one in objectives])
    draws = np.stack([one.draws for one in objectives], axis=2)
    probability = members_of_draws(draws).mean(axis=0)
    zs = np.stack([one.z for one in objectives])
    surely = probability >= SURELY
    possibly = ~_beaten(zs) | surely
    low, high = _band(costs, draws, possibly)
    ranked = max(1, min(len(draws), _RANKED // len(costs) ** 2))
    return UncertainFront(
        probability=probability,
        surely=surely,
        possibly=possibly,
        rank=1 + domination_shares(draws[:ranked]).sum(axis=0),
        tie_group=_tie_groups(np.asarray(~(np.abs(zs) >= TOLD_APART).any(axis=0)), costs),
        epsilon_front=_epsilon_front(costs, np.asarray(epsilon)),
        hypervolume=hypervolume_interval(costs, draws),
        band_low=low,
        band_high=high,
    )


def _beaten(zs: Numbers) -> Mask:
    """Which columns some row beats in every objective; one in which both are exactly equal takes no part."""
    equal = np.isnan(zs)
    beats = ((zs > BEATEN) | equal).all(axis=0) & ~equal.all(axis=0)
    return np.asarray(beats.any(axis=0))


def _tie_groups(tied: Mask, costs: Numbers) -> NDArray[np.int64]:
    """Each configuration, best first cost first, joins the first group all of which it ties, or begins one."""
    groups: list[list[int]] = []
    for i in np.lexsort(costs.T[::-1]):
        home = next((group for group in groups if tied[i, group].all()), None)
        if home is None:
            groups.append([int(i)])
        else:
            home.append(int(i))
    numbers = np.zeros(len(costs), dtype=np.int64)
    for number, group in enumerate((group for group in groups if len(group) > 1), start=1):
        numbers[group] = number
    return numbers


def _epsilon_front(costs: Numbers, epsilon: Numbers) -> Mask:
    """Laumanns, Thiele, Deb and Zitzler 2002 (Evol. Comput. 10:263): additive epsilon, for what is kept."""
    stays = np.ones(len(costs), dtype=np.bool_)
    for i, better in enumerate(costs - epsilon):
        stays[i] = not ((costs <= better).all(axis=1) & (costs < better).any(axis=1)).any()
    return stays


def hypervolume_interval(costs: Numbers, draws: Numbers) -> MeanInterval | None:
    """The hypervolume as a share of the box of all measured values, with a 95 % interval.

    A front of noisy values lies above the true one, and the front of their draws above that by about as much again:
    that second step is the bias. The lower end allows for it, the upper end does not: ``[v - max(0, bias) - 1.96 s,
    v + 1.96 s]`` with the standard deviation ``s`` of the draws. Percentiles of the draws lie too high.

    Args:
        costs: (configurations, objectives).
        draws: (draws, configurations, objectives).
    """
    worst, best = costs.max(axis=0), costs.min(axis=0)
    sides = worst - best
    if not (sides > 0).all():
        return None
    scaled, reference = (costs - best) / sides, np.full(costs.shape[1], 1 + MARGIN)
    if costs.shape[1] > 2:
        draws = draws[:_DRAWS_OF_MANY]
    whole = float(np.prod(reference))
    value = hypervolume(scaled, reference) / whole
    drawn = hypervolumes_of_draws((draws - best) / sides, reference) / whole
    half, bias = NORMAL * float(drawn.std()), max(0.0, float(drawn.mean()) - value)
    return MeanInterval(mean=value, low=max(0.0, value - bias - half), high=value + half)


def _band(costs: Numbers, draws: Numbers, possibly: Mask) -> tuple[Numbers, Numbers]:
    """Simultaneous intervals: the largest deviation of all that may be on the front, in standard errors (max-t).

    Their lower and upper ends enclose all true values at once in 95 % of draws, so the fronts of the ends enclose the
    true front.
    """
    spread = draws.std(axis=0)
    deviations = np.abs(draws - costs)[:, possibly] / np.where(spread[possibly] > 0, spread[possibly], np.inf)
    reach = float(np.quantile(deviations.max(axis=(1, 2)), 0.95)) * spread
    return costs - reach, costs + reach


def best_within(
    budget: DrawnObjective, limit: float, value: DrawnObjective, *, cut: float = 0.025
) -> MeanInterval | None:
    """The lowest cost of ``value`` among configurations whose ``budget`` is at most ``limit``, with a 95 % interval.

    The truth is a minimum over what is truly within the budget. Its lower end is the least lower end of all that may be
    (more than ``cut`` of their draws are): it holds where the one that is truly best holds. The upper end is the least
    upper end of those that surely are, as each of them is a solution. ``BUDGET_NORMAL`` standard errors each; without
    one that surely keeps the budget there is no upper end (infinite).

    Returns:
        ``mean`` is the least measured cost within the budget; None where none is possibly within it.
    """
    kept = (budget.draws <= limit).mean(axis=0)
    may, surely, measured = kept > cut, kept >= 1 - cut, budget.costs <= limit
    if not may.any():
        return None
    reach = BUDGET_NORMAL * value.draws.std(axis=0)
    low = float((value.costs - reach)[may].min())
    high = float((value.costs + reach)[surely].min()) if surely.any() else float("inf")
    middle = float(value.costs[measured].min()) if measured.any() else float(value.costs[may].min())
    return MeanInterval(mean=middle, low=min(low, middle), high=max(high, middle))
