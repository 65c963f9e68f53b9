"""Whether fronts and intervals hold what they promise, against simulated truth; and how long they take. JSON out.

    python -m tests.benchmarks.doubt --out doubt.json                  # everything: half an hour on two cores
    python -m tests.benchmarks.doubt --sections tiers --worlds 20      # one part, fewer worlds

``speed``: exact fronts of a million rows, and the doubt of 336 configurations on 5,000 samples in 2,000 draws.
``tiers``: of the configurations called surely on the front the share that is not, and of the true members the share
that is not even possibly on it; beside the front of measured values. Also how often a configuration is on
the true front, by its share of draws. ``coverage``: how often 95 % intervals hold the truth: differences of accuracy,
the hypervolume, the band, the best accuracy within a budget. ``intervals``: the same of single trials: accuracy,
latency, processes, flips. The worlds are those of ``sweep_simulation``, with seeds from 1000 on; the thresholds were
chosen on seeds from 0 on (``--first 0`` shows those).
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.interval_simulation import (
    ACCURACY_CELLS,
    LATENCY_CELLS,
    accuracy_coverage,
    flip_rates,
    latency_coverage,
    process_coverage,
)
from tests.benchmarks.sections import Report
from tests.benchmarks.sweep_simulation import Measured, SweepWorld
from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.resampling import DRAWS, PairedScores, log_times, mean_covariance, mean_draws
from vlmprof.stats.uncertain_front import DrawnObjective, UncertainFront, best_within, uncertain_front

SECTIONS = ("speed", "tiers", "coverage", "intervals")
VALUES = {27: 3, 125: 5}
SAMPLES = (300, 1000, 5000)
NOISES = (0.01, 0.05)


@dataclass(frozen=True)
class Simulated:
    """One measured sweep of a world: what is said of it, and what is so."""

    world: SweepWorld
    measured: Measured
    accuracy: DrawnObjective
    latency: DrawnObjective
    found: UncertainFront

    @property
    def truth(self) -> Any:
        return np.column_stack([-self.world.accuracy, np.log(self.world.latency_ms)])


def simulated(
    configurations: int, samples: int, noise: float, seed: int, draws: int, world: SweepWorld | None = None
) -> Simulated:
    world = world or SweepWorld(seed, VALUES[configurations])
    measured = world.measure(samples, noise, seed)
    paired, times = measured.paired, measured.times
    covariance = mean_covariance(paired)
    each = np.diag(covariance)
    apart = 1 - np.eye(configurations)
    of_scores = np.sqrt(np.maximum(each[:, None] + each - 2 * covariance, 1 / samples**2)) * apart
    accuracy = DrawnObjective(costs=-paired.means, draws=-mean_draws(paired, draws, seed), errors=of_scores)
    logs, errors = np.log(measured.latency_ms), times.errors
    latency = DrawnObjective(
        costs=logs, draws=logs + times.draws(draws, seed + 1), errors=np.hypot(errors[:, None], errors) * apart
    )
    found = uncertain_front([accuracy, latency], [0.01, float(np.log(1.02))])
    return Simulated(world, measured, accuracy, latency, found)


def cells(most: int) -> Iterator[tuple[int, int, float]]:
    for configurations in VALUES:
        for samples in SAMPLES:
            for noise in NOISES:
                if samples <= most:
                    yield configurations, samples, noise


def tiers(worlds: int, first: int, draws: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for configurations, samples, noise in cells(most):
        counts: Counter[str] = Counter()
        of_share: dict[str, list[int]] = {}
        for seed in range(first, first + worlds):
            one = simulated(configurations, samples, noise, seed, draws)
            truth, found = one.world.on_front, one.found
            measured = non_dominated(np.column_stack([one.accuracy.costs, one.latency.costs]))
            counts["true"] += int(truth.sum())
            counts["missed"] += int((truth & ~found.possibly).sum())
            counts["missed_as_measured"] += int((truth & ~measured).sum())
            sets = {"surely": found.surely, "possibly": found.possibly, "measured": measured}
            sets["epsilon"] = found.epsilon_front
            for name, members in sets.items():
                counts[name] += int(members.sum())
                counts[f"{name}_false"] += int((members & ~truth).sum())
            for share, is_so in zip(found.probability, truth, strict=True):
                of_share.setdefault(f"{min(9, int(share * 10)) / 10:.1f}", []).append(int(is_so))
        rows.append(_tier_row(counts, of_share, configurations, samples, noise, worlds))
        print(rows[-1], flush=True)
    return rows


def _tier_row(
    counts: Counter[str], of_share: dict[str, list[int]], configurations: int, samples: int, noise: float, worlds: int
) -> dict[str, Any]:
    return {
        "configurations": configurations,
        "samples": samples,
        "noise": noise,
        "worlds": worlds,
        "on_true_front": counts["true"] / worlds,
        "surely": counts["surely"] / worlds,
        "possibly": counts["possibly"] / worlds,
        "surely_false": _share(counts["surely_false"], counts["surely"]),
        "possibly_false": _share(counts["possibly_false"], counts["possibly"]),
        "missed": _share(counts["missed"], counts["true"]),
        "measured_false": _share(counts["measured_false"], counts["measured"]),
        "measured_missed": _share(counts["missed_as_measured"], counts["true"]),
        "truly_on_front_by_share": {key: [round(float(np.mean(v)), 3), len(v)] for key, v in sorted(of_share.items())},
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def coverage(worlds: int, first: int, draws: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for configurations, samples, noise in cells(most):
        held: dict[str, list[float]] = {}
        for seed in range(first, first + worlds):
            one = simulated(configurations, samples, noise, seed, draws)
            for name, holds in covered(one).items():
                held.setdefault(name, []).append(holds)
        row = {"configurations": configurations, "samples": samples, "noise": noise, "worlds": worlds}
        rows.append({**row, **{name: round(float(np.mean(values)), 4) for name, values in held.items()}})
        print(rows[-1], flush=True)
    return rows


def covered(one: Simulated) -> dict[str, float]:
    """Which intervals of one sweep hold the truth; of many intervals their share."""
    truth, accuracy, latency, found = one.truth, one.accuracy, one.latency, one.found
    pairs = np.triu_indices(len(truth), 1)
    true_difference = (truth[:, None, :] - truth[None, :, :])[pairs]
    difference = (accuracy.costs[:, None] - accuracy.costs)[pairs] - true_difference[:, 0]
    of_times = (latency.costs[:, None] - latency.costs)[pairs] - true_difference[:, 1]
    drawn = accuracy.draws[:, pairs[0][::7]] - accuracy.draws[:, pairs[1][::7]]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    at = np.linspace(truth[:, 1].min(), truth[:, 1].max(), 60)
    inside = (_attained(found.band_low, at) <= _attained(truth, at) + 1e-12) & (
        _attained(truth, at) <= _attained(found.band_high, at) + 1e-12
    )
    measured = np.column_stack([accuracy.costs, latency.costs])
    assert found.hypervolume is not None, "no two configurations of a world are alike"
    return {
        "difference_of_accuracy": float((np.abs(difference) <= 1.96 * accuracy.errors[pairs]).mean()),
        "difference_by_draws": float(((low <= true_difference[::7, 0]) & (true_difference[::7, 0] <= high)).mean()),
        "difference_of_latency": float((np.abs(of_times) <= 1.96 * latency.errors[pairs]).mean()),
        "hypervolume": float(found.hypervolume.low <= _true_volume(truth, measured) <= found.hypervolume.high),
        "band": float(inside.all()),
        "budget": float(np.mean([_budget_holds(one, share) for share in (0.2, 0.5, 0.8)])),
    }


def _attained(costs: Any, limits: Any) -> Any:
    """The least first cost among rows whose second cost keeps each limit; 1 where none does."""
    return np.where(costs[None, :, 1] <= limits[:, None], costs[None, :, 0], 1.0).min(axis=1)


def _true_volume(truth: Any, measured: Any) -> float:
    """In the box of what was measured, as the product says it."""
    from vlmprof.stats.fronts import hypervolume
    from vlmprof.stats.uncertain_front import MARGIN

    best, worst = measured.min(axis=0), measured.max(axis=0)
    return hypervolume((truth - best) / (worst - best), np.full(2, 1 + MARGIN)) / (1 + MARGIN) ** 2


def _budget_holds(one: Simulated, share: float) -> bool:
    """A limit between two configurations, as a user would name one: no limit is exactly a configuration's latency."""
    limit = float(np.quantile(one.truth[:, 1], share)) + 0.003
    found = best_within(one.latency, limit, one.accuracy)
    true_best = one.truth[one.truth[:, 1] <= limit, 0].min()
    return found is not None and bool(found.low <= true_best <= found.high)


def intervals(draws: int, first: int) -> dict[str, Any]:
    """Coverage of the intervals of single trials; the truth is that of ``interval_simulation``."""
    return {
        "accuracy": [accuracy_coverage(*cell, draws=draws, seed=first) for cell in ACCURACY_CELLS],
        "latency": [latency_coverage(kind, draws=draws, seed=first) for kind in LATENCY_CELLS],
        "processes": [
            process_coverage(processes, unlike, draws=10 * draws, seed=first)
            for processes in (2, 3, 5)
            for unlike in (False, True)
        ],
        "flips": [
            flip_rates(audited, rate, draws=10 * draws, seed=first)
            for audited in (64, 380)
            for rate in (0.0, 0.005, 0.01, 0.03)
        ],
    }


def speed(scale: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = int(1e6 * scale)
    sphere = np.abs(rng.normal(size=(rows, 3)))
    tables = {
        "two, spread": rng.random((rows, 2)),
        "two, all on the front": np.column_stack([np.arange(rows), -np.arange(rows)]).astype(float),
        "three, spread": rng.random((rows, 3)),
        "three, all on the front": -sphere / np.linalg.norm(sphere, axis=1, keepdims=True),
    }
    fronts = {name: _seconds(partial(non_dominated, costs)) for name, costs in tables.items()}
    configurations, samples = int(336 * scale) or 8, int(5000 * scale) or 50
    scores = (rng.random((samples, configurations)) < 0.6).astype(float)
    paired = PairedScores(scores=scores, clusters=np.arange(samples) // 2)
    logs = np.log(rng.uniform(100, 200, configurations))
    times = log_times(np.exp(logs[:, None, None] + rng.normal(0, 0.01, (configurations, 1, 8))).tolist())

    def doubt() -> None:
        apart = 1 - np.eye(configurations)
        covariance = mean_covariance(paired)
        each = np.diag(covariance)
        of_scores = np.sqrt(np.maximum(each[:, None] + each - 2 * covariance, 0)) * apart
        errors = np.hypot(times.errors[:, None], times.errors) * apart
        accuracy = DrawnObjective(costs=-paired.means, draws=-mean_draws(paired, DRAWS), errors=of_scores)
        latency = DrawnObjective(costs=logs, draws=logs + times.draws(DRAWS), errors=errors)
        uncertain_front([accuracy, latency], [0.01, 0.02])

    return {
        "rows": rows,
        "fronts_s": fronts,
        "configurations": configurations,
        "samples": samples,
        "draws": DRAWS,
        "doubt_s": _seconds(doubt),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("doubt.json"))
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--worlds", type=int, default=200, help="of each cell")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first world")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--most-samples", type=int, default=max(SAMPLES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes of the section speed")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything")
    options = parser.parse_args()
    report = Report(options.out, "cpu", options.limit)
    sizes = (options.worlds, options.first, options.draws, options.most_samples)
    works: dict[str, Callable[[], Any]] = {
        "speed": partial(speed, options.scale),
        "tiers": partial(tiers, *sizes),
        "coverage": partial(coverage, *sizes),
        "intervals": partial(intervals, 5 * options.worlds, options.first),
    }
    for name in options.sections.split(","):
        report.section(name, report.left_s, works[name])
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
