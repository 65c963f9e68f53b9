"""What choosing does to a value, and whether probabilities and intervals hold, against simulated truth. JSON out.

    python -m tests.benchmarks.choosing --out choosing.json                # some minutes on one core
    python -m tests.benchmarks.choosing --worlds 20 --most-samples 300     # fewer worlds, smaller sweeps

In each world (``sweep_simulation``) the configuration of the best accuracy within a latency is chosen, as ``vlmprof
best`` does it. ``winner``: how far the measured, the corrected and the confirmed value are from the truth of the
configuration that was chosen, how often their 95 % intervals hold it, and what choosing on half the samples costs.
``chances``: of configurations that are feasible in a share of the draws, which share truly is; how many answers and
safe answers truly are; how many answers are the best, beside the probability of it; and how often the interval of the
price of certainty, and those of runner-ups, hold the truth.
Worlds have seeds from 1000 on; the correction was chosen on seeds 3000 to 3149.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.doubt import NOISES, SAMPLES, VALUES, simulated
from tests.benchmarks.sections import Report
from tests.benchmarks.sweep_simulation import SweepWorld
from vlmprof.stats.intervals import Interval, MeanInterval, mean_interval
from vlmprof.stats.resampling import PairedScores
from vlmprof.stats.selection import NOBODY, Contest, chances, confirm, corrected, difference, winner_is_best

SECTIONS = ("winner", "chances")
WITHIN = (0.3, 0.6, 0.9)
"""Quantiles of the true latencies that are taken for limits."""
RUNNERS_UP = 5


@dataclass(frozen=True)
class Chosen:
    """One choice in one world: what is said of it, and what is so."""

    world: SweepWorld
    paired: PairedScores
    contest: Contest
    winner: int
    limit: float
    """Logarithm of the latency that is allowed."""

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which configurations truly are."""
        return np.asarray(np.log(self.world.latency_ms) <= self.limit)

    def truth(self, configuration: int) -> float:
        return float(self.world.accuracy[configuration])


def choices(configurations: int, samples: int, noise: float, seed: int, draws: int) -> Iterator[Chosen]:
    one = simulated(configurations, samples, noise, seed, draws)
    for share in WITHIN:
        # Between two configurations, as a user would name a limit: no limit is exactly a configuration's latency.
        limit = float(np.log(np.quantile(one.world.latency_ms, share))) + 0.003
        contest = Contest(
            columns={"accuracy": one.accuracy, "latency": one.latency},
            objective="accuracy",
            allowed=partial(_within, limit),
        )
        winner = int(contest.winner(contest.measured))
        if winner != NOBODY:
            yield Chosen(one.world, one.measured.paired, contest, winner, limit)


def _within(limit: float, costs: Mapping[str, Any]) -> Any:
    return costs["latency"] <= limit


def cells(most: int) -> Iterator[tuple[int, int, float]]:
    return ((c, s, noise) for c in VALUES for s in SAMPLES for noise in NOISES if s <= most)


def winner(worlds: int, first: int, draws: int, most: int) -> list[dict[str, Any]]:
    rows = []
    for cell in cells(most):
        found: dict[str, list[float]] = {}
        for seed in range(first, first + worlds):
            for one in choices(*cell, seed, draws):
                for name, value in _of_winner(one).items():
                    found.setdefault(name, []).append(value)
        rows.append({**_named(cell), "choices": len(found["bias_measured"]), **_means(found)})
        print(rows[-1], flush=True)
    return rows


def _of_winner(one: Chosen) -> dict[str, float]:
    paired, true = one.paired, one.truth(one.winner)
    own = mean_interval(paired.scores[:, one.winner].tolist(), paired.clusters.tolist())
    of_cost = corrected(one.contest, one.winner, Interval(low=-own.high, high=-own.low))
    less = MeanInterval(mean=-of_cost.mean, low=-of_cost.high, high=-of_cost.low)
    confirmed = confirm(one.contest, paired, {"accuracy": lambda means: -means}, splits=0)
    assert confirmed is not None, "the latencies alone decide what is allowed"
    half = one.truth(confirmed.winner)
    best = one.world.accuracy[one.feasible].max(initial=-np.inf)
    return {
        **_errors("measured", own, true),
        **_errors("corrected", less, true),
        **_errors("confirmed", confirmed.score, half),
        "half_width_measured": (own.high - own.low) / 2,
        "half_width_corrected": (less.high - less.low) / 2,
        "half_width_confirmed": (confirmed.score.high - confirmed.score.low) / 2,
        "lost_by_half": true - half,
        "lost_to_the_best": float(best) - true if np.isfinite(best) else 0.0,
    }


def _errors(name: str, found: MeanInterval, true: float) -> dict[str, float]:
    return {
        f"bias_{name}": found.mean - true,
        f"square_{name}": (found.mean - true) ** 2,
        f"covered_{name}": float(found.low <= true <= found.high),
    }


def _means(found: dict[str, list[float]]) -> dict[str, float]:
    means = {name: float(np.mean(values)) for name, values in found.items()}
    roots = {
        f"rmse_{name.removeprefix('square_')}": np.sqrt(means.pop(name)) for name in list(means) if "square_" in name
    }
    return {name: round(float(value), 5) for name, value in (means | roots).items()}


def _named(cell: tuple[int, int, float]) -> dict[str, Any]:
    return dict(zip(("configurations", "samples", "noise"), cell, strict=True))


def chances_hold(worlds: int, first: int, draws: int, most: int, sure: float = 0.95) -> list[dict[str, Any]]:
    rows = []
    for cell in cells(most):
        of_share: dict[str, list[float]] = {}
        found: dict[str, list[float]] = {}
        for seed in range(first, first + worlds):
            for one in choices(*cell, seed, draws):
                shares = chances(one.contest)
                for share, is_so in zip(shares.feasible, one.feasible, strict=True):
                    of_share.setdefault(f"{min(9, int(share * 10)) / 10:.1f}", []).append(float(is_so))
                for name, value in _of_chances(one, shares.feasible, shares.best, sure):
                    found.setdefault(name, []).append(value)
        by_share = {key: [round(float(np.mean(v)), 3), len(v)] for key, v in sorted(of_share.items())}
        rows.append({**_named(cell), **_means(found), "feasible_by_share": by_share})
        print(rows[-1], flush=True)
    return rows


def _of_chances(one: Chosen, feasible: Any, best: Any, sure: float) -> Iterator[tuple[str, float]]:
    costs = one.contest.measured["accuracy"]
    yield "answer_feasible", float(one.feasible[one.winner])
    yield "answer_probability", float(feasible[one.winner])
    truly = np.where(one.feasible, one.world.accuracy, -np.inf)
    yield "answer_is_best", float(truly[one.winner] == truly.max())
    yield "answer_share_best", float(best[one.winner])
    yield "answer_probability_best", winner_is_best(one.contest)
    order = [i for i in np.argsort(costs) if one.contest.allowed(one.contest.measured)[i] and i != one.winner]
    _, low, high = difference(one.contest.columns["accuracy"], one.winner)
    true = -(one.world.accuracy - one.world.accuracy[one.winner])
    yield from (("covered_runner_up", float(low[i] <= true[i] <= high[i])) for i in order[:RUNNERS_UP])
    allowed = feasible >= sure
    if allowed.any():
        safe = int(np.where(allowed, costs, np.inf).argmin())
        yield "safe_feasible", float(one.feasible[safe])
        if safe != one.winner:
            yield "covered_price", float(low[safe] <= true[safe] <= high[safe])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("choosing.json"))
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--worlds", type=int, default=200, help="of each cell; each has three limits")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first world")
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument("--most-samples", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything")
    options = parser.parse_args()
    report = Report(options.out, "cpu", options.limit)
    sizes = (options.worlds, options.first, options.draws, options.most_samples)
    works = {"winner": partial(winner, *sizes), "chances": partial(chances_hold, *sizes)}
    for name in options.sections.split(","):
        report.section(name, report.left_s, works[name])
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
