"""False alarms of ``vlmprof compare --fail-if`` and power of ``vlmprof power``, on simulated runs. JSON out.

    python -m tests.benchmarks.compare_alarms --out alarms.json            # everything: some minutes
    python -m tests.benchmarks.compare_alarms --sections latency --runs 200

``latency``: two runs of one job, 27 configurations, nothing changed but noise: what differs from session to session
(the process effect; 0.4 % is assumed where nothing measures it), a drift of the machine between the runs, and the
canary, whose drift the configurations share wholly, half or not at all. The condition is at its worst case,
``latency_ms_p50 > +0%``, and at ``+3%``; besides, how often one configuration that is truly 10 % slower is found, and
how often 95 % intervals hold the truth. ``accuracy``: two models that are equally good and err independently, on the
same questions, ``accuracy < 0`` and ``accuracy < -0.01``. (Greedy answers of one job are the same in each run, so there
nothing is left to chance.) ``power``: how often a difference is told with the number of samples that ``vlmprof power``
asks for, estimated from a pilot.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tests.benchmarks.sections import Report
from tests.benchmarks.sweep_simulation import GROUPS, SweepWorld
from vlmprof.analyze.comparing.alarms import parse_alarm, raised
from vlmprof.analyze.comparing.changes import Change
from vlmprof.stats.latency_change import TimedRun, canary_times, latency_ratios, process_effect
from vlmprof.stats.paired import paired_differences
from vlmprof.stats.power import samples_needed
from vlmprof.stats.resampling import PairedScores, log_times, mean_covariance
from vlmprof.store.schema import schema_of_row

Numbers = NDArray[np.float64]
SECTIONS = ("latency", "accuracy", "power")
CONFIGURATIONS = 27
NOISE, CANARY_NOISE, CANARIES = 0.01, 0.02, 8
"""Of a group of generations, of one canary; canaries in a session."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What differs between two runs of which nothing differs."""

    effect: float
    """Standard deviation from session to session."""
    drift: float = 0.0
    """Standard deviation of the whole run."""
    shared: float = 1.0
    """Share of the drift in the latencies that the canary has too."""
    processes: int = 1
    canary: bool = True


MACHINES: Sequence[Machine] = (
    *(Machine(effect=effect, canary=False) for effect in (0.001, 0.004, 0.01)),
    *(Machine(effect=effect) for effect in (0.001, 0.004, 0.01)),
    *(Machine(effect=effect, processes=3) for effect in (0.001, 0.004, 0.01)),
    *(Machine(effect=0.004, drift=0.05, shared=shared) for shared in (0.0, 0.5, 1.0)),
    Machine(effect=0.004, drift=0.05, canary=False),
)
CONDITIONS = ("latency_ms_p50 > +0%", "latency_ms_p50 > +3%")


def timed(machine: Machine, truth: Numbers, rng: np.random.Generator) -> tuple[TimedRun, list[Any]]:
    """One run: latencies with these true logarithms, and the canary's times."""
    shape = (CONFIGURATIONS, machine.processes)
    drift = rng.normal(0, machine.drift) if machine.drift else 0.0
    shift = rng.normal(0, machine.effect, (*shape, 1)) + drift * machine.shared
    logs = truth[:, None, None] + shift + rng.normal(0, NOISE, (*shape, GROUPS))
    canaries = rng.normal(0, machine.effect, (*shape, 1)) + drift + rng.normal(0, CANARY_NOISE, (*shape, CANARIES))
    known = canary_times(np.exp(canaries).tolist()) if machine.canary else None
    nothing = np.full(CONFIGURATIONS, np.nan)
    run = TimedRun(
        log_latency=np.log(np.mean(np.exp(np.median(logs, axis=2)), axis=1)),
        sessions=np.exp(logs).tolist(),
        canary_level=known.level if known else nothing,
        canary_variance=known.variance if known else nothing,
        canary_freedom=np.full(CONFIGURATIONS, known.freedom if known else math.inf),
    )
    return run, [known] if known else []


def latency_change(machine: Machine, slower: Numbers, seed: int) -> Change:
    """The change of the latencies of two runs; ``slower``: logarithms of what is truly so."""
    rng = np.random.default_rng([seed, 1])
    truth = np.log(rng.uniform(50, 200, CONFIGURATIONS))
    first, canaries = timed(machine, truth, rng)
    second, more = timed(machine, truth + slower, rng)
    effect = process_effect(log_times([*first.sessions, *second.sessions]), [*canaries, *more])
    ratios = latency_ratios(first, second, effect)
    return Change(
        column="latency_ms_p50",
        unit="ms",
        by_ratio=True,
        first=np.exp(first.log_latency),
        second=np.exp(second.log_latency),
        estimates=ratios.measured,
        relative=ratios.relative if machine.canary else None,
    )


def is_alarm(text: str, change: Change) -> NDArray[np.bool_]:
    """Of which pairs the condition is surely true."""
    return raised(parse_alarm(text, SCHEMA), {change.column: change}).surely


SCHEMA: pa.Schema = schema_of_row(())


def latency(runs: int, first: int) -> list[dict[str, Any]]:
    rows = []
    one_slower = np.zeros(CONFIGURATIONS)
    one_slower[0] = math.log(1.1)
    for machine in MACHINES:
        alarms = {text: 0 for text in CONDITIONS}
        found, covered = 0, []
        for seed in range(first, first + runs):
            change = latency_change(machine, np.zeros(CONFIGURATIONS), seed)
            for text in CONDITIONS:
                alarms[text] += int(is_alarm(text, change).any())
            low, high = change.ends()
            covered.append(float(((low <= 0) & (high >= 0)).mean()))
            found += int(is_alarm(CONDITIONS[1], latency_change(machine, one_slower, seed))[0])
        about = {name: getattr(machine, name) for name in ("effect", "drift", "shared", "processes", "canary")}
        rates = {text: count / runs for text, count in alarms.items()}
        rows.append(about | rates | {"found": found / runs, "covered": float(np.mean(covered)), "runs": runs})
        print(rows[-1], flush=True)
    return rows


def accuracy_change(samples: int, seed: int) -> Change:
    """Two models that are truly equal in every configuration, on the same questions."""
    world = SweepWorld(seed)
    world.knobs, world.accuracy = np.vstack([world.knobs] * 2), np.tile(world.accuracy, 2)
    rng = np.random.default_rng([seed, samples])
    clusters = np.repeat(np.arange(samples), rng.poisson(1.5, samples) + 1)[:samples]
    scores, _ = world.answers(clusters, rng)
    half = len(world.accuracy) // 2
    found = paired_differences(PairedScores(scores=scores[:, half:] - scores[:, :half], clusters=clusters), draws=0)
    means = scores.mean(axis=0)
    return Change(
        column="accuracy",
        unit="fraction",
        by_ratio=False,
        first=means[:half],
        second=means[half:],
        estimates=found.estimates,
    )


def accuracy(runs: int, first: int) -> list[dict[str, Any]]:
    rows = []
    for samples in (100, 300, 1000):
        alarms = {"accuracy < 0": 0, "accuracy < -0.01": 0}
        for seed in range(first, first + runs):
            change = accuracy_change(samples, seed)
            for text in alarms:
                alarms[text] += int(is_alarm(text, change).any())
        rows.append({"samples": samples, **{text: count / runs for text, count in alarms.items()}, "runs": runs})
        print(rows[-1], flush=True)
    return rows


def paired_sample(pictures: int, difference: float, rng: np.random.Generator, alike: float) -> PairedScores:
    """Differences of two configurations on pictures of one to four questions, that share part of what differs."""
    sizes = rng.integers(1, 5, pictures)
    clusters = np.repeat(np.arange(pictures), sizes)
    both = math.sqrt(alike) * rng.standard_normal(pictures)[clusters]
    both += math.sqrt(1 - alike) * rng.standard_normal(len(clusters))
    rise, fall = 0.06 + difference / 2, 0.06 - difference / 2  # of all samples
    cuts = NormalDist().inv_cdf(fall), NormalDist().inv_cdf(1 - rise)
    changes = np.where(both < cuts[0], -1.0, np.where(both > cuts[1], 1.0, 0.0))
    return PairedScores(scores=changes[:, None], clusters=clusters)


def power(runs: int, first: int) -> list[dict[str, Any]]:
    rows = []
    for difference, wished, alike in ((0.02, 0.8, 0.0), (0.02, 0.8, 0.4), (0.03, 0.9, 0.4), (0.03, 0.5, 0.0)):
        told, asked = 0, []
        for seed in range(first, first + runs):
            rng = np.random.default_rng([seed, int(1000 * difference)])
            pilot = paired_sample(400, difference, rng, alike)
            errors = np.sqrt(np.diag(mean_covariance(pilot)))
            samples = int(samples_needed(errors, len(pilot.scores), difference, wished)[0])
            pictures = math.ceil(samples * 400 / len(pilot.scores))
            found = paired_differences(paired_sample(pictures, difference, rng, alike), draws=0)
            told += int(found.estimates.p_values()[0] < 0.05 and found.estimates.value[0] > 0)
            asked.append(samples)
        row = {"difference": difference, "power": wished, "alike": alike, "told": told / runs}
        rows.append({**row, "samples": float(np.mean(asked)), "runs": runs})
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("compare_alarms.json"))
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--runs", type=int, default=1000, help="pairs of runs of each cell")
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything")
    options = parser.parse_args()
    report = Report(options.out, "cpu", options.limit)
    works: dict[str, Callable[[], Any]] = {
        "latency": partial(latency, options.runs, options.first),
        "accuracy": partial(accuracy, options.runs, options.first),
        "power": partial(power, options.runs, options.first),
    }
    for name in options.sections.split(","):
        report.section(name, report.left_s, works[name])
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
