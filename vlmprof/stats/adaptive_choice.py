"""Choosing a configuration for each sample: the oracle under a budget, its headroom, and how much of it may be luck.

A table has the score and the cost of every sample in every configuration. The *oracle* takes for each sample the best
score within the budget. It knows the answers, so it is no method but a bound, and an optimistic one: it also collects
configurations that were right by luck. No table with one answer a cell can say how much, for the oracle's score only
depends on which scores a sample has, not on which configuration has which: exchanging a sample's answers among the
configurations within the budget changes nothing, although it destroys all that could be learned. So there are two
bounds. What a chooser gains who sees the sample's answers in some configurations and chooses among the *others* does
not rest on the luck of the chosen answer: that is a lower bound on what knowing each sample's true chances would gain,
as far as luck is independent from one configuration to another. The oracle's gain is the upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.intervals import MeanInterval
from vlmprof.stats.resampling import PairedScores, cluster_sums, mean_covariance, mean_draws

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
FOLDS = 5
SPLITS = 20
RIDGE = 100.0
"""Added to the diagonal of the regression that predicts a sample's answers from others, in samples."""
_SIMULTANEOUS = 0.975
_NODES = 200
MOST_LEVELS = 20
_ROOM = 1e-9
"""Relative: a cost that equals the budget keeps it, whatever was rounded."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChoiceTable:
    """Scores and costs of samples in configurations, all of them known."""

    scores: Numbers
    """(samples, configurations)"""
    costs: Numbers
    """(samples, configurations), above 0"""
    clusters: Places
    """(samples,): equal for samples that may depend on each other."""
    work: Places | None = None
    """(samples, configurations): the place of the first configuration that did the same work for the sample, and so has
    the same answer; None: no two did."""

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or self.scores.shape != self.costs.shape or len(self.clusters) != len(self.scores):
            shapes = self.scores.shape, self.costs.shape, self.clusters.shape
            raise ValueError(f"expected scores and costs of samples x configurations and clusters, got {shapes}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.costs).all() and (self.costs > 0).all()):
            raise ValueError("expected finite scores, and costs above 0")

    def within(self, budget: float) -> Mask:
        """(samples, configurations): what costs at most the budget."""
        return np.asarray(self.costs <= budget * (1 + _ROOM))

    def taken(self, choice: Places, of: Numbers | None = None) -> Numbers:
        """(samples,): the scores, or what ``of`` has, of the configuration that was chosen for each."""
        values = self.scores if of is None else of
        return np.asarray(np.take_along_axis(values, choice[:, None], axis=1)[:, 0])

    def rewards(self, budget: float, penalty: float) -> Numbers:
        """(samples, configurations): ``score - penalty * max(0, cost - budget)``."""
        return np.asarray(self.scores - penalty * np.maximum(0.0, self.costs - budget * (1 + _ROOM)))


def best_of_each(values: Numbers, costs: Numbers, allowed: Mask | None = None) -> Places:
    """(samples,): the place of the largest value among those that are allowed, of equal ones the cheapest.

    Where nothing is allowed, the cheapest of all.
    """
    allowed = np.ones(values.shape, dtype=np.bool_) if allowed is None else allowed
    masked = np.where(allowed, values, -np.inf)
    best = masked == masked.max(axis=1, keepdims=True)  # all of them where nothing is allowed
    return np.asarray(np.where(best, costs, np.inf).argmin(axis=1))


def oracle(table: ChoiceTable, budget: float) -> Places:
    """(samples,): the configuration with the best score within the budget; the cheapest where none is within it."""
    return best_of_each(table.scores, table.costs, table.within(budget))


def static_candidates(table: ChoiceTable, budget: float, violations: float) -> Mask:
    """(configurations,): those that exceed the budget in at most this share of the samples."""
    return np.asarray((~table.within(budget)).mean(axis=0) <= violations + _ROOM)


def mean_of(values: Numbers, clusters: Places) -> MeanInterval:
    """The mean of values of any range and its 95 % interval: linearisation over clusters, Student's t.

    The standard error is at least that of one sample that differs by 1: that no sample of these differs does not mean
    that none does.

    Raises:
        ValueError: a single cluster.
    """
    paired = PairedScores(scores=values[:, None], clusters=clusters)
    error = max(float(np.sqrt(mean_covariance(paired)[0, 0])), 1 / len(values))
    half = student_quantile(0.95, len(cluster_sums(paired)) - 1) * error
    mean = float(values.mean())
    return MeanInterval(mean=mean, low=mean - half, high=mean + half)


def headroom(values: Numbers, table: ChoiceTable, candidates: Mask) -> MeanInterval:
    """By how much these values are better than the best single configuration, with a 95 % interval.

    It is the least mean difference over the candidates, and the interval allows for the choice of the least (multiple
    comparisons with the best; Hsu 1996, Multiple Comparisons, 4). Lower end: the least lower end of all, which holds
    where that of the truly best one holds (2.5 %). Upper end: the least upper end, each wide enough that all hold at
    once (2.5 %, max-t over joint draws of whole clusters). What is best as measured is chosen by luck in part, so the
    headroom over it is too small; the upper end is where that shows.

    Args:
        values: (samples,): what somebody who chooses for each sample gets.
        table: The same samples.
        candidates: (configurations,): at least one.

    Raises:
        ValueError: no candidate, or a single cluster.
    """
    if not candidates.any():
        raise ValueError("expected a candidate at least")
    paired = PairedScores(scores=values[:, None] - table.scores[:, candidates], clusters=table.clusters)
    means = paired.means
    errors = np.maximum(np.sqrt(np.diag(mean_covariance(paired))), 1 / len(values))
    reach = student_quantile(0.95, len(cluster_sums(paired)) - 1)
    deviations = ((means - mean_draws(paired)) / errors).max(axis=1)
    together = max(reach, float(np.quantile(deviations, _SIMULTANEOUS)))
    mean = float(means.min())
    low, high = float((means - reach * errors).min()), float((means + together * errors).min())
    return MeanInterval(mean=mean, low=low, high=max(high, mean))


def luck_alone(table: ChoiceTable, budget: float) -> float | None:
    """The headroom that these scores would show if no sample preferred one configuration to another.

    In that world a score reaches a level where ``sqrt(r) t + sqrt(1 - r) e`` is below a threshold of the configuration
    and the level, with one normal difficulty ``t`` for each sample and independent luck ``e``: all samples then agree
    on which configuration is likelier to do better, and choosing for each sample gains nothing. The thresholds give the
    measured shares of each level, and ``r`` the measured variance of a sample's sum of scores (one-factor probit model;
    Bock and Lieberman 1970, Psychometrika 35:179). The oracle's score is integrated over ``t`` (Gauss and Hermite). Of
    configurations that did the same work for all samples one counts.

    Returns:
        None where there are more than ``MOST_LEVELS`` levels, or fewer than two distinct configurations.
    """
    distinct = _distinct(table)
    scores = table.scores[:, distinct]
    levels = np.unique(scores)
    if len(distinct) < 2 or not 1 < len(levels) <= MOST_LEVELS:
        return None
    world = _NoPreference(scores, levels)
    shared = world.shared_variance(float(scores.sum(axis=1).var(ddof=1)))
    allowed, counts = np.unique(table.within(budget)[:, distinct], axis=0, return_counts=True)
    best = np.array([world.best_score(shared, some) for some in allowed])
    means = scores.mean(axis=0)
    static = np.array([means[some].max() if some.any() else levels[0] for some in allowed])
    return float(np.average(best - static, weights=counts))


@final
class _NoPreference:
    """The world of ``luck_alone``."""

    def __init__(self, scores: Numbers, levels: Numbers) -> None:
        self.lowest, self.steps = float(levels[0]), np.diff(levels)
        reached = np.stack([(scores >= level).mean(axis=0) for level in levels[1:]])
        self.thresholds = ndtri(np.clip(reached, 1e-6, 1 - 1e-6))
        self.squares = np.diff((levels - levels[0]) ** 2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        self.nodes, self.weights = nodes, weights / weights.sum()

    def reached(self, shared: float) -> Numbers:
        """(difficulties, levels, configurations): the chance that a score reaches a level."""
        shift = np.sqrt(shared) * self.nodes[:, None, None]
        return np.asarray(ndtr((self.thresholds - shift) / np.sqrt(1 - shared)))

    def variance(self, shared: float) -> float:
        """Of a sample's sum of scores over the configurations."""
        reached = self.reached(shared)
        means = np.einsum("k,tkj->tj", self.steps, reached)
        sums, spread = means.sum(axis=1), (np.einsum("k,tkj->tj", self.squares, reached) - means**2).sum(axis=1)
        return float(self.weights @ (sums - self.weights @ sums) ** 2 + self.weights @ spread)

    def shared_variance(self, measured: float) -> float:
        """The share of difficulty that gives the measured variance, or the nearest end."""
        low, high = 1e-6, 1 - 1e-4
        if self.variance(low) >= measured:
            return low
        return (
            high if self.variance(high) <= measured else float(brentq(lambda r: self.variance(r) - measured, low, high))
        )

    def best_score(self, shared: float, allowed: Mask) -> float:
        """The mean of the best score of each sample among some configurations; the lowest score where there is none."""
        below = np.prod(1 - self.reached(shared)[:, :, allowed], axis=2)
        return self.lowest + float(self.weights @ ((1 - below) @ self.steps))


def _distinct(table: ChoiceTable) -> Places:
    """Places of configurations of which no two did the same work for all samples."""
    if table.work is None:
        return np.arange(table.scores.shape[1])
    return np.sort(np.unique(table.work, axis=1, return_index=True)[1])


def folds_of(clusters: Places, folds: int = FOLDS, seed: int = 0) -> Places:
    """(samples,): the fold of each, whole clusters in one; as many as there are clusters where there are fewer."""
    names, members = np.unique(clusters, return_inverse=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    return np.asarray(order[members] % min(folds, len(names)))


def crossed(table: ChoiceTable, choose: Callable[[Places, Places], Places], folds: int = FOLDS) -> Places:
    """(samples,): choices that are made for each fold by what is known of the others.

    Args:
        table: All samples.
        choose: (samples to learn from, samples to choose for) -> their choices.
        folds: How many.
    """
    of_fold = folds_of(table.clusters, folds)
    found = np.zeros(len(of_fold), dtype=np.int64)
    for fold in np.unique(of_fold):
        learn, ask = np.flatnonzero(of_fold != fold), np.flatnonzero(of_fold == fold)
        found[ask] = choose(learn, ask)
    return found


def best_static(table: ChoiceTable, values: Numbers) -> Places:
    """(samples,): the configuration with the largest mean of ``values`` on the other folds, the cheapest of equals."""

    def choose(learn: Places, ask: Places) -> Places:
        means = values[learn].mean(axis=0)
        cheapest = best_of_each(means[None], table.costs[learn].mean(axis=0)[None])
        return np.full(len(ask), cheapest[0])

    return crossed(table, choose)


def side_information(table: ChoiceTable, budget: float, candidates: Mask, splits: int = SPLITS) -> Numbers:
    """(samples,): scores of a chooser who sees a sample's answers in half of the configurations, and takes another.

    In each of ``splits`` random halves, the answers in one half predict those in the other (ridge regression, learned
    on other folds), and the best prediction within the budget is taken. The configuration that is best on the other
    folds among the ``candidates`` is always in the half that may be chosen. Answers that are one with an answer of that
    half, because both did the same work, are not shown. Given a sample's true chances, what is seen is independent of
    the answer that counts as far as luck is independent between configurations; so in the mean this is at most what
    choosing by the true chances gets.

    Returns:
        The mean over the splits.
    """
    count = table.scores.shape[1]
    if count < 2:
        return np.asarray(table.scores[:, 0])
    generator = np.random.Generator(np.random.PCG64(0))
    total = np.zeros(len(table.scores))
    for _ in range(splits):
        order = generator.permutation(count)

        def choose(learn: Places, ask: Places, order: Places = order) -> Places:
            return _by_others(table, budget, candidates, (learn, ask), order)

        total += table.taken(crossed(table, choose))
    return np.asarray(total / splits)


def _by_others(
    table: ChoiceTable, budget: float, candidates: Mask, samples: tuple[Places, Places], order: Places
) -> Places:
    learn, ask = samples
    means = np.where(candidates, table.scores[learn].mean(axis=0), -np.inf)
    best = int(means.argmax())
    others = order[order != best]
    seen, open_ = others[: len(order) // 2], np.append(others[len(order) // 2 :], best)
    shown = [_shown(table, rows, seen, open_) for rows in samples]
    middle = table.scores[learn][:, seen].mean(axis=0)
    known, asked = (np.where(np.isnan(part), 0.0, part - middle) for part in shown)
    differences = table.scores[learn][:, open_] - table.scores[learn][:, open_[-1:]]
    level = differences.mean(axis=0)
    slopes = np.linalg.solve(known.T @ known + RIDGE * np.eye(len(seen)), known.T @ (differences - level))
    allowed = table.within(budget)[ask][:, open_]
    return np.asarray(open_[best_of_each(level + asked @ slopes, table.costs[ask][:, open_], allowed)])


def _shown(table: ChoiceTable, rows: Places, seen: Places, open_: Places) -> Numbers:
    """The answers of these samples in the configurations that are seen; NaN where one that is open has the same."""
    scores = table.scores[rows][:, seen].astype(np.float64)
    if table.work is not None and (table.work != np.arange(table.work.shape[1])).any():
        same = (table.work[rows][:, seen, None] == table.work[rows][:, None, open_]).any(axis=2)
        scores[same] = np.nan
    return scores


def largest_within(table: ChoiceTable, budget: float, members: Mask) -> Places:
    """(samples,): of these configurations the most expensive one in the mean that fits each sample's budget.

    The cheapest of them where none fits. It needs costs alone, no scores: what a controller does that knows the latency
    and turns one knob.
    """
    places = np.flatnonzero(members)
    by_cost = places[np.argsort(-table.costs[:, places].mean(axis=0), kind="stable")]
    fits = table.within(budget)[:, by_cost]
    cheapest = table.costs[:, by_cost].argmin(axis=1)
    return np.asarray(by_cost[np.where(fits.any(axis=1), fits.argmax(axis=1), cheapest)])


def greedy(table: ChoiceTable, budget: float, start: int, steps: Sequence[Sequence[int]]) -> Places:
    """(samples,): the first configuration within the budget on a path down from the fullest, the last where none is.

    From each configuration the path goes to the one of its ``steps`` that saves the most cost for each point of score
    that it loses, both in the mean over the other folds; one that loses nothing goes first, by what it saves. Steps
    that save nothing are not taken. It is the usual greedy rule for a knapsack (Dantzig 1957, Oper. Res. 5:266).

    Args:
        table: All samples.
        budget: Of each sample.
        start: The fullest configuration.
        steps: Configuration -> those with one knob one value lower.
    """

    def choose(learn: Places, ask: Places) -> Places:
        scores, costs = table.scores[learn].mean(axis=0), table.costs[learn].mean(axis=0)
        path = np.array(list(_path(scores, costs, start, steps)))
        fits = table.within(budget)[ask][:, path]
        return np.asarray(path[np.where(fits.any(axis=1), fits.argmax(axis=1), len(path) - 1)])

    return crossed(table, choose)


def _path(scores: Numbers, costs: Numbers, start: int, steps: Sequence[Sequence[int]]) -> Iterator[int]:
    at = start
    while True:
        yield at
        saving = [to for to in steps[at] if costs[to] < costs[at]]
        if not saving:
            return
        here = at
        at = max(saving, key=lambda to: _worth(float(costs[here] - costs[to]), float(scores[here] - scores[to])))


def _worth(saved: float, lost: float) -> tuple[float, float]:
    return (float("inf"), saved) if lost <= 0 else (saved / lost, saved)
