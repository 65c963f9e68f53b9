"""Choosing the best of what is allowed, and what the choice does to the value that it was chosen for.

Whoever takes the largest of several noisy values takes one whose noise was kind: the winner's curse. The expected
excess of the winner is estimated by the bootstrap, with the correction iterated once (Davison and Hinkley 1997,
Bootstrap Methods and their Application, 2.2 and 3.9; for models chosen by error rates Tibshirani and Tibshirani 2009,
Ann. Appl. Stat. 3:822, and Tsamardinos, Greasidou and Borboudakis 2018, Mach. Learn. 107:1895). The other way is to
choose on some clusters and report on the others (Cox 1975, Biometrika 62:441), which needs no correction and has half
the samples. How far both hold stands in docs/decisions/best.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.estimates import NORMAL
from vlmprof.stats.intervals import Interval, MeanInterval, mean_interval
from vlmprof.stats.resampling import PairedScores
from vlmprof.stats.uncertain_front import DrawnObjective

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
SPLITS = 200
"""Other halves on which the choice is made, to see how often it is the same."""
FEWEST_OF_HALVES = 10
"""Clusters in each half, at least."""
NOBODY = -1


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """Configurations, what is minimised, and which of them are allowed."""

    columns: Mapping[str, DrawnObjective]
    """All costs that the choice depends on, of the same configurations and the same number of draws."""
    objective: str
    """The column whose cost is minimised."""
    allowed: Callable[[Mapping[str, Numbers]], Mask]
    """Column -> costs (..., configurations), to whether each configuration is allowed (..., configurations)."""

    @property
    def measured(self) -> Mapping[str, Numbers]:
        """Column -> (configurations,)."""
        return {name: one.costs for name, one in self.columns.items()}

    @property
    def draws(self) -> Mapping[str, Numbers]:
        """Column -> (draws, configurations)."""
        return {name: one.draws for name, one in self.columns.items()}

    def winner(self, costs: Mapping[str, Numbers]) -> NDArray[np.int64]:
        """(...): the allowed configuration of least cost, the first of equals; ``NOBODY`` where none is allowed."""
        allowed = self.allowed(costs)
        best = np.where(allowed, costs[self.objective], np.inf).argmin(axis=-1)
        return np.asarray(np.where(allowed.any(axis=-1), best, NOBODY))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chances:
    """Shares of draws, for each configuration."""

    feasible: Numbers
    """In which it is allowed."""
    best: Numbers
    """In which it is the best of those that are; draws in which several are best count for each in part."""


def chances(contest: Contest) -> Chances:
    """In which share of the draws each configuration is allowed, and the best of those that are."""
    draws = contest.draws
    allowed = contest.allowed(draws)
    costs = np.where(allowed, draws[contest.objective], np.inf)
    first = (costs == costs.min(axis=1, keepdims=True)) & allowed
    shared = first / np.maximum(1, first.sum(axis=1, keepdims=True))
    return Chances(feasible=allowed.mean(axis=0), best=shared.mean(axis=0))


def optimism(contest: Contest) -> float:
    """How much lower the measured cost of the winner is than its true cost, on average over such choices; 0 or more.

    With noise ``e`` as drawn, the winner ``s`` of the measured costs plus ``e`` has the excess ``-e[s]`` over the
    measured cost of ``s``, which is the truth of that simulation: ``b1``, its mean, estimates the excess. It is too
    small, as measured costs lie further apart than true ones. The same step from costs with one noise more gives
    ``b2``, and ``2 b1 - b2`` corrects ``b1`` by as much as ``b2`` falls short of it.
    """
    return max(0.0, 2 * _excess(contest, 1) - _excess(contest, 2))


def winner_is_best(contest: Contest) -> float:
    """How often the winner of measured costs is truly the best that is allowed, over such choices; from 0 to 1.

    The share of draws in which the measured winner stays the best is too high, as measured costs lie further apart than
    true ones; it is corrected like ``optimism``, and never upwards: of two configurations the share is right.
    """
    shares = []
    for noises in (1, 2):
        before, after = _noisy(contest, noises)
        shares.append(float((contest.winner(before) == contest.winner(after)).mean()))
    return max(0.0, min(shares[0], 2 * shares[0] - shares[1]))


def _excess(contest: Contest, noises: int) -> float:
    """Mean excess of the winner over its cost before the last of so many noises."""
    before, after = _noisy(contest, noises)
    winner = contest.winner(after)
    rows = np.flatnonzero(winner != NOBODY)
    chosen = rows, winner[rows]
    excess = before[contest.objective][chosen] - after[contest.objective][chosen]
    return float(excess.mean()) if rows.size else 0.0


def _noisy(contest: Contest, noises: int) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
    """Measured costs with so many noises but the last, and with all: column -> (draws, configurations)."""
    before, after = {}, {}
    for name, one in contest.columns.items():
        noise = one.draws - one.costs  # draws are independent of each other: any other order is another noise
        costs = np.array(np.broadcast_to(one.costs, noise.shape))
        for k in range(noises - 1):
            costs += np.roll(noise, (k + 1) * len(noise) // (noises + 1), axis=0)
        before[name], after[name] = costs, costs + noise
    return before, after


def corrected(contest: Contest, winner: int, own: Interval | None = None) -> MeanInterval:
    """The cost of a measured winner less what the choice made of it, with a 95 % interval of its true cost.

    ``mean`` is the measured cost and ``optimism``. The interval is that of a configuration that was not chosen, with
    its upper end moved up by the optimism, and its lower end left: the winner may have been best without any luck.

    Args:
        contest: what was chosen.
        winner: as ``Contest.winner`` gives it.
        own: the interval of its cost, without regard to the choice; None: ``NORMAL`` standard deviations of its draws.
    """
    one, by = contest.columns[contest.objective], optimism(contest)
    cost = float(one.costs[winner])
    reach = NORMAL * float(one.draws[:, winner].std())
    own = own or Interval(low=cost - reach, high=cost + reach)
    return MeanInterval(mean=cost + by, low=own.low, high=own.high + by)


def difference(one: DrawnObjective, than: int) -> tuple[Numbers, Numbers, Numbers]:
    """The cost of each configuration less that of one of them, with the ends of its paired 95 % interval."""
    middle, reach = one.costs - one.costs[than], NORMAL * one.errors[:, than]
    return middle, middle - reach, middle + reach


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A configuration chosen on one half of the clusters, and its mean score on the other."""

    winner: int
    score: MeanInterval
    chosen_on: int
    """Samples of the first half."""
    reported_on: int
    """Samples of the second half."""
    again: float
    """Share of other halves on which the same one is chosen; NaN where none was tried."""


def confirm(
    contest: Contest,
    paired: PairedScores,
    of_scores: Mapping[str, Callable[[Numbers], Numbers]],
    seed: int = 0,
    splits: int = SPLITS,
) -> Confirmed | None:
    """Choose by the scores of one half of the clusters, report those of the other half.

    Nothing of the second half took part in the choice, so the interval is the ordinary one (``mean_interval``). Costs
    that are no means of scores, such as times, are as measured in both halves.

    Args:
        contest: what is chosen.
        paired: the scores.
        of_scores: columns of the contest that are means of scores -> how a mean score becomes a cost.
        seed: of the split. Trying several and keeping the best one would be a choice on all samples again.
        splits: other halves on which the choice is made, for ``again``.

    Returns:
        None where nothing is allowed by the scores of the first half.

    Raises:
        ValueError: fewer than ``FEWEST_OF_HALVES`` clusters for a half.
    """
    first = first_half(paired, seed)
    winner = _winner_on(contest, paired, of_scores, first)
    if winner == NOBODY:
        return None
    rest = ~first
    others = [_winner_on(contest, paired, of_scores, first_half(paired, seed + 1 + i)) for i in range(splits)]
    return Confirmed(
        winner=winner,
        score=mean_interval(paired.scores[rest, winner].tolist(), paired.clusters[rest].tolist()),
        chosen_on=int(first.sum()),
        reported_on=int(rest.sum()),
        again=float(np.mean([other == winner for other in others])) if others else float("nan"),
    )


def first_half(paired: PairedScores, seed: int) -> Mask:
    """(samples,): those of a random half of the clusters.

    Raises:
        ValueError: as ``confirm``.
    """
    clusters = np.unique(paired.clusters)
    if len(clusters) < 2 * FEWEST_OF_HALVES:
        raise ValueError(f"expected {2 * FEWEST_OF_HALVES} clusters or more for two halves, got {len(clusters)}")
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(clusters)
    return np.asarray(np.isin(paired.clusters, shuffled[: len(clusters) // 2]))


def _winner_on(
    contest: Contest, paired: PairedScores, of_scores: Mapping[str, Callable[[Numbers], Numbers]], samples: Mask
) -> int:
    means = replace(paired, scores=paired.scores[samples], clusters=paired.clusters[samples]).means
    costs = {**contest.measured, **{name: as_cost(means) for name, as_cost in of_scores.items()}}
    return int(contest.winner(costs))
