"""Whether coupling, transfer and the oracle hold what they promise, against simulated truth. JSON out.

    python -m tests.benchmarks.coupling --out coupling.json                 # everything
    python -m tests.benchmarks.coupling --sections headroom --worlds 20     # one part, fewer worlds

``components``: coverage of the intervals of deviations, shares, effects and interactions. ``alarms``: how often the
tests of no interaction reject in worlds without one. ``fronts``: coverage of what is lost where a knob is held.
``agreement``: coverage of overlap, rank correlations and regret between two worlds that are alike in part.
``headroom``: the oracle's headroom, what luck alone gives, and how often the bounds enclose what choosing by the true
chances would gain, also in worlds in which no sample prefers a configuration. ``auc``: coverage of the area under a ROC
curve with clusters. The worlds are those of ``sweep_simulation``, with seeds from 3000 on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tests.benchmarks import sweep_simulation
from tests.benchmarks.doubt import VALUES, Simulated, simulated
from tests.benchmarks.sections import Report
from tests.benchmarks.sweep_simulation import SweepWorld
from vlmprof.stats import adaptive_choice as choice
from vlmprof.stats.agreement import jaccard, jaccard_interval, kendall, spearman
from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.factorial import (
    component,
    contrast_weights,
    contrasts,
    decompose,
    drawn_interaction_test,
    interaction_test,
    sets_of,
)
from vlmprof.stats.front_subsets import kept_front
from vlmprof.stats.fronts import hypervolume, members_of_draws, non_dominated
from vlmprof.stats.intervals import MeanInterval, mean_interval
from vlmprof.stats.resampling import PairedScores, cluster_sums, mean_covariance, mean_draws
from vlmprof.stats.roc import auc
from vlmprof.stats.uncertain_front import MARGIN

SECTIONS = ("components", "alarms", "fronts", "agreement", "headroom", "auc")
SAMPLES = (300, 1000, 3000)
GRID = (3, 3, 3)
NOISE = 0.01
DRAWS, FLIPS = 500, 500
FIRST = 3000
Held = dict[str, list[float]]


def _add(held: Held, **values: float | bool) -> None:
    for name, value in values.items():
        held.setdefault(name, []).append(float(value))


def _row(held: Held, **about: Any) -> dict[str, Any]:
    row = {**about, **{name: round(float(np.mean(values)), 4) for name, values in sorted(held.items())}}
    print(row, flush=True)
    return row


def _holds(interval: MeanInterval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


def components(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for samples in (size for size in SAMPLES if size <= most):
        held: Held = {}
        for seed in range(first, first + worlds):
            _components_of(held, seed, samples)
        rows.append(_row(held, samples=samples, worlds=worlds))
    return rows


def _components_of(held: Held, seed: int, samples: int) -> None:
    world = SweepWorld(seed)
    paired = world.measure(samples, NOISE, seed).paired
    truth = world.accuracy.reshape(GRID)
    draws = mean_draws(paired, DRAWS, seed).reshape(-1, *GRID)
    found = decompose(paired.means.reshape(GRID), draws, mean_covariance(paired))
    _contrasts_of(held, paired, draws.reshape(DRAWS, -1), truth)
    squares = {factors: float((component(truth, factors, 3) ** 2).sum()) for factors in sets_of(3)}
    for one in found:
        of = len(one.factors)
        deviation, share = np.sqrt(squares[one.factors] / truth.size), squares[one.factors] / sum(squares.values())
        _add(
            held,
            **{f"deviation_{of}": _holds(one.deviation, float(deviation)), f"share_{of}": _holds(one.share, share)},
        )


def _contrasts_of(held: Held, paired: PairedScores, draws: Any, truth: Any) -> None:
    """Effects of the first knob at each value of the second, and their interactions."""
    sets = {
        "effects": [contrast_weights(GRID, {0: (to, 2)}, {1: at}) for to in (0, 1) for at in range(3)],
        "interactions": [contrast_weights(GRID, {0: (a, 2), 1: (b, 2)}, {}) for a in (0, 1) for b in (0, 1)],
    }
    reach = student_quantile(0.95, len(cluster_sums(paired)) - 1)
    for name, weights in sets.items():
        stacked = np.stack([one.ravel() for one in weights])
        found = contrasts(stacked, paired.means, mean_covariance(paired), draws, reach)
        true = stacked @ truth.ravel()
        each = [one.low <= value <= one.high for one, value in zip(found, true, strict=True)]
        together = all(one.together_low <= value <= one.together_high for one, value in zip(found, true, strict=True))
        _add(held, **{name: float(np.mean(each)), f"{name}_together": together})


def alarms(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    """Five times as many worlds: a rate of 5 % takes many tests."""
    rows = []
    for samples in (size for size in SAMPLES if size <= most):
        held: Held = {}
        for seed in range(first, first + 5 * worlds):
            _false_alarms(held, seed, samples)
        rows.append(_row(held, samples=samples, worlds=5 * worlds))
    return rows


def additive_world(seed: int) -> SweepWorld:
    """A world without any interaction, of accuracy or of the logarithm of latency."""
    world, rng = SweepWorld(seed), np.random.default_rng([seed, 1])
    world.accuracy = 0.4 + world.knobs @ rng.uniform(0.0, 0.15, 3)
    world.latency_ms = 40 * np.exp(world.knobs @ rng.uniform(0.05, 0.5, 3))
    return world


def _false_alarms(held: Held, seed: int, samples: int) -> None:
    measured = additive_world(seed).measure(samples, NOISE, seed + 1)
    sums = cluster_sums(measured.paired).reshape(-1, *GRID)
    logs, off = np.log(measured.latency_ms).reshape(GRID), measured.times.draws(DRAWS, seed).reshape(-1, *GRID)
    for factors in (one for one in sets_of(3) if len(one) > 1):
        of = len(factors)
        _add(held, **{f"rejects_{of}": interaction_test(sums, factors, FLIPS, seed) <= 0.05})
        _add(held, **{f"rejects_time_{of}": drawn_interaction_test(logs, off, factors) <= 0.05})


def _stacked(one: Simulated) -> tuple[Any, Any]:
    costs = np.column_stack([one.accuracy.costs, one.latency.costs])
    return costs, np.stack([one.accuracy.draws, one.latency.draws], axis=2)


def _true_kept(truth: Any, costs: Any, members: Any) -> tuple[float, float]:
    """In the box of what was measured: share of hypervolume, loss of accuracy."""
    best, sides = costs.min(axis=0), costs.max(axis=0) - costs.min(axis=0)
    scaled, reference = (truth - best) / sides, np.full(2, 1 + MARGIN)
    whole, part = hypervolume(scaled, reference), hypervolume(scaled[members], reference)
    return part / whole, (whole - part) * sides[0] / (1 + MARGIN)


def fronts(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for samples in (size for size in SAMPLES if size <= most):
        held: Held = {}
        for seed in range(first, first + worlds):
            one = simulated(27, samples, NOISE, seed, DRAWS)
            costs, draws = _stacked(one)
            for axis in range(3):
                for value in (0.0, 0.5, 1.0):
                    members = one.world.knobs[:, axis] == value
                    kept = kept_front(costs, draws, members)
                    assert kept is not None
                    share, loss = _true_kept(one.truth, costs, members)
                    _add(held, kept=_holds(kept.share, share), lost=_holds(kept.loss, loss))
        rows.append(_row(held, samples=samples, worlds=worlds))
    return rows


def mixed_worlds(seed: int) -> tuple[SweepWorld, SweepWorld]:
    """Two worlds with one grid, the second between the first and a third one."""
    a, b, other = SweepWorld(seed), SweepWorld(seed), SweepWorld(seed + 50_000)
    mix = float(np.random.default_rng([seed, 2]).uniform(0, 0.6))
    b.accuracy = (1 - mix) * a.accuracy + mix * other.accuracy
    b.latency_ms = a.latency_ms ** (1 - mix) * other.latency_ms**mix
    return a, b


def agreement(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for samples in (size for size in SAMPLES if size <= most):
        held: Held = {}
        for seed in range(first, first + worlds):
            a, b = (
                simulated(27, samples, NOISE, seed + 7 * i, DRAWS, world) for i, world in enumerate(mixed_worlds(seed))
            )
            _agreement_of(held, a, b)
        rows.append(_row(held, samples=samples, worlds=worlds))
    return rows


def _agreement_of(held: Held, a: Simulated, b: Simulated) -> None:
    (costs_a, draws_a), (costs_b, draws_b) = _stacked(a), _stacked(b)
    fronts_of = (non_dominated(costs_a), non_dominated(costs_b))
    truth = jaccard(a.world.on_front, b.world.on_front)
    overlap = jaccard_interval(fronts_of, (a.found, b.found))
    assert truth is not None and overlap is not None
    shares = [jaccard(*both) or 0.0 for both in zip(members_of_draws(draws_a), members_of_draws(draws_b), strict=True)]
    low, high = np.quantile(shares, [0.025, 0.975])
    _add(held, overlap=_holds(overlap, truth), overlap_by_draws=low <= truth <= high, overlap_true=truth)
    _add(held, overlap_measured=overlap.mean, overlap_width=overlap.high - overlap.low)
    sides = {"quality": (a.accuracy, b.accuracy, 0), "time": (a.latency, b.latency, 1)}
    for name, (x, y, column) in sides.items():
        true = stats.spearmanr(a.truth[:, column], b.truth[:, column])[0]
        tau = stats.kendalltau(a.truth[:, column], b.truth[:, column])[0]
        _add(held, **{f"spearman_{name}": _holds(spearman(x, y), true), f"kendall_{name}": _holds(kendall(x, y), tau)})
    kept = kept_front(costs_b, draws_b, fronts_of[0])
    assert kept is not None
    share, loss = _true_kept(b.truth, costs_b, fronts_of[0])
    _add(held, regret=_holds(kept.loss, loss), front_kept=_holds(kept.share, share))


def headroom(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for needs in (sweep_simulation.OF_KNOBS, 0.0):
        for configurations in VALUES:
            for samples in (size for size in SAMPLES if size <= most):
                held: Held = {}
                for seed in range(first, first + worlds):
                    _headroom_of(held, SweepWorld(seed, VALUES[configurations], needs), samples, seed)
                rows.append(_row(held, prefer=needs > 0, configurations=configurations, samples=samples, worlds=worlds))
    return rows


def _headroom_of(held: Held, world: SweepWorld, samples: int, seed: int) -> None:
    budget = 0.7 * float(world.latency_ms[-1])
    within = world.latency_ms <= budget
    if within.sum() < 3:
        return
    measured, many = (world.measure(size, NOISE, at) for size, at in ((samples, seed), (20_000, seed + 10**6)))
    static = float(world.accuracy[within].max())
    realised = float(many.paired.scores[:, within].max(axis=1).mean()) - static
    true = float(many.chances[:, within].max(axis=1).mean()) - static
    costs = np.tile(world.latency_ms, (samples, 1))
    table = choice.ChoiceTable(scores=measured.paired.scores, costs=costs, clusters=measured.paired.clusters)
    candidates = choice.static_candidates(table, budget, 0.05)
    found = choice.headroom(table.taken(choice.oracle(table, budget)), table, candidates)
    repeatable = choice.headroom(choice.side_information(table, budget, candidates, 10), table, candidates)
    _add(held, oracle=found.mean, by_true_chances=max(0.0, true), luck=choice.luck_alone(table, budget) or 0.0)
    static_rule = choice.best_static(table, table.rewards(budget, 10 / budget))
    rule = mean_interval(table.taken(static_rule).tolist(), table.clusters.tolist())
    _add(held, score_of_a_rule=_holds(rule, float(world.accuracy[static_rule].mean())))
    _add(held, repeatable=repeatable.mean, repeatable_shown=repeatable.low > 0)
    room = 0.003  # what 20,000 samples leave open of the truth
    _add(held, holds_realised=found.low - room <= realised <= found.high + room)
    _add(held, lower_bound_holds=repeatable.low <= max(0.0, true) + room, upper_bound_holds=true <= found.high + room)


def areas(worlds: int, first: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for samples in (size for size in SAMPLES if size <= most):
        for true in (0.5, 0.7, 0.9):
            held: Held = {}
            for seed in range(first, first + 5 * worlds):
                _add(held, auc=_holds(_area(samples, true, seed), true))
            rows.append(_row(held, samples=samples, area=true, worlds=5 * worlds))
    return rows


def _area(samples: int, true: float, seed: int) -> MeanInterval | None:
    """A fifth is positive; scores and kinds of one picture depend on each other."""
    rng = np.random.default_rng([seed, samples])
    clusters = np.repeat(np.arange(samples), rng.poisson(1.5, samples) + 1)[:samples]
    shared = rng.normal(size=(2, samples))[:, clusters]
    own = rng.normal(size=(2, samples))
    hidden, scores = 0.6 * shared + 0.8 * own
    positive = hidden > stats.norm.ppf(0.8)
    return auc(scores + np.sqrt(2) * stats.norm.ppf(true) * positive, positive, clusters)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("coupling.json"))
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--worlds", type=int, default=200, help="of each cell")
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first world")
    parser.add_argument("--most-samples", type=int, default=max(SAMPLES))
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything")
    options = parser.parse_args()
    report = Report(options.out, "cpu", options.limit)
    sizes = (options.worlds, options.first, options.most_samples)
    works: dict[str, Callable[..., Any]] = {
        "components": components,
        "alarms": alarms,
        "fronts": fronts,
        "agreement": agreement,
        "headroom": headroom,
        "auc": areas,
    }
    for name in options.sections.split(","):
        report.section(name, report.left_s, partial(works[name], *sizes))
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
