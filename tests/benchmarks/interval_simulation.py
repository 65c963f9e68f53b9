"""How often the 95 % intervals of one trial's numbers hold the truth, by simulation: accuracy, latency, flips.

Accuracy: clusters of questions about one picture, whose chances of a right answer are beta-distributed with the given
correlation; scores are right or wrong, or in thirds. Latency: generations with independent or correlated noise, with
two modes in which they dwell, and processes that differ.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmprof.stats.generation_times import RequestTime, request_latency
from vlmprof.stats.intervals import mean_interval
from vlmprof.stats.timeseries import process_interval

ACCURACY_CELLS: Sequence[tuple[int, int, float, float, bool]] = tuple(
    (clusters, size, share, alike, thirds)
    for thirds, (clusters, size), share, alike in itertools.product(
        (False, True), ((40, 10), (100, 10), (100, 3), (300, 1)), (0.03, 0.5, 0.97), (0.0, 0.1, 0.3, 0.6)
    )
    if size > 1 or alike == 0.0
)
"""Clusters, questions in each, true accuracy, correlation within a cluster, whether scores are in thirds."""
LATENCY_CELLS: Sequence[str] = ("independent", "AR(1) 0.6", "AR(1) 0.9", "two modes, short", "two modes, long")
MODES_APART = 0.03
GENERATIONS, REQUESTS, SPREAD = 128, 16, 0.005


def accuracy_coverage(
    clusters: int, size: int, share: float, alike: float, thirds: bool, *, draws: int, seed: int
) -> dict[str, Any]:
    """Coverage and mean width of ``mean_interval``."""
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(clusters), size)
    held, widths = 0, []
    for _ in range(draws):
        chances = np.full(clusters, share)
        if alike:
            weight = (1 - alike) / alike
            chances = rng.beta(share * weight, (1 - share) * weight, clusters)
        of_answers = chances[members]
        scores = rng.binomial(3, of_answers) / 3 if thirds else (rng.random(len(members)) < of_answers).astype(float)
        interval = mean_interval(scores.tolist(), members.tolist())
        held += interval.low <= share <= interval.high
        widths.append(interval.high - interval.low)
    about = {"clusters": clusters, "size": size, "accuracy": share, "correlation": alike, "thirds": thirds}
    return {**about, "coverage": held / draws, "width": statistics.fmean(widths)}


def times_of(kind: str, rng: np.random.Generator) -> tuple[list[RequestTime], float]:
    """Times of one process, and the true latency: the mean over the modes, which hold equally long."""
    base = rng.uniform(60, 110, REQUESTS)
    rho = {"AR(1) 0.6": 0.6, "AR(1) 0.9": 0.9}.get(kind, 0.0)
    noise, logs = rng.normal(0, SPREAD), []
    for _ in range(GENERATIONS):
        noise = rho * noise + rng.normal(0, SPREAD * math.sqrt(1 - rho**2))
        logs.append(noise)
    dwell = {"two modes, short": 5, "two modes, long": 30}.get(kind)
    upper = rng.random() < 0.5
    for i in range(GENERATIONS if dwell else 0):
        upper ^= bool(rng.random() < 1 / (dwell or 1))
        logs[i] += MODES_APART * upper
    truth = float(base.mean()) * math.exp(MODES_APART / 2 if dwell else 0.0)
    return [RequestTime(i % REQUESTS, float(base[i % REQUESTS] * math.exp(log))) for i, log in enumerate(logs)], truth


def latency_coverage(kind: str, *, draws: int, seed: int) -> dict[str, Any]:
    """Coverage of the interval of one process; of those with two modes also of the ones that are not called bimodal."""
    rng = np.random.default_rng(seed)
    held, quiet, held_quiet, off = 0, 0, 0, []
    for _ in range(draws):
        times, truth = times_of(kind, rng)
        found = request_latency(times)
        holds = found.low is not None and found.high is not None and found.low <= truth <= found.high
        held += holds
        off.append(abs(found.ms / truth - 1))
        if found.modes_apart == 0:
            quiet += 1
            held_quiet += holds
    return {
        "times": kind,
        "coverage": held / draws,
        "called_bimodal": 1 - quiet / draws,
        "coverage_of_the_others": held_quiet / quiet if quiet else None,
        "off_p95": float(np.quantile(off, 0.95)),
    }


def process_coverage(processes: int, unlike_modes: bool, *, draws: int, seed: int) -> dict[str, Any]:
    """Coverage of Student's interval over processes that differ by 0.4 %, or dwell in one of two modes each."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(draws):
        shifts = rng.normal(0, 0.004, processes) + rng.normal(0, 0.001, processes)
        truth = 0.0
        if unlike_modes:
            shifts += MODES_APART * (rng.random(processes) < 0.5)
            truth = MODES_APART / 2
        interval = process_interval((100 * np.exp(shifts)).tolist())
        held += interval is not None and interval.low <= 100 * math.exp(truth) <= interval.high
    return {"processes": processes, "unlike_modes": unlike_modes, "coverage": held / draws}


def flip_rates(audited: int, flips_per_answer: float, *, draws: int, seed: int) -> dict[str, Any]:
    """How often an audit warns of more than 1 % of flips, cannot tell, or is silent, at this true rate."""
    from vlmprof.analyze.caveats import judged_flips

    rng = np.random.default_rng(seed)
    counts = {"warns": 0, "cannot tell": 0, "": 0}
    for _ in range(draws):
        flips = (rng.random(audited) < flips_per_answer).astype(float)
        interval = mean_interval(flips.tolist(), list(range(audited)))
        counts[judged_flips(interval.mean, interval.low, 0.01)] += 1
    about = {"audited": audited, "true_rate": flips_per_answer}
    return {**about, "warns": counts["warns"] / draws, "cannot_tell": counts["cannot tell"] / draws}
