"""Simulated sweeps whose truth is known: what a front says of them can be compared with what is so.

A world is one model on one task and machine: a grid of three knobs, for each configuration its true accuracy (over the
whole population of questions) and its true latency. Both grow with every knob and level off, with a deviation of each
configuration, so that many neighbours are near ties, as in real sweeps. A question is right where its difficulty lies
below the configuration's ability (probit): difficulty is shared by all configurations, by the questions of a picture in
part, and how much a question needs a knob differs from question to question. So errors are paired and clustered, and
the true accuracy is known exactly. A measured latency has the noise of a few groups of generations in each session, and
a shift of each session: the process effect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.resampling import LogTimes, PairedScores, log_times

Numbers = NDArray[np.float64]
SHARED, OF_PICTURE, OF_KNOBS = 0.60, 0.20, 0.12
"""Variance of a question's difficulty: its own, its picture's, of its need of each knob; the rest is noise."""
QUESTIONS_A_PICTURE = 2.5
PROCESS_EFFECT = 0.004
GROUPS = 8


@dataclass(frozen=True)
class Measured:
    """One sweep of a world, as the tables have it."""

    paired: PairedScores
    latency_ms: Numbers
    times: LogTimes
    sessions: Sequence[Sequence[Sequence[float]]]
    chances: Numbers
    """(samples, configurations): the true probability of each answer to be right, given the question."""


class SweepWorld:
    """The truth of one sweep; ``measure`` runs it."""

    def __init__(self, seed: int, values: int = 3, of_knobs: float = OF_KNOBS) -> None:
        """``values`` of each knob: 3 give 27 configurations, 5 give 125.

        ``of_knobs`` is how much questions differ in their need of each knob; at 0 all agree on which configuration is
        likelier to be right.
        """
        self.of_knobs = of_knobs
        rng = np.random.default_rng(seed)
        steps = np.linspace(0.0, 1.0, values)
        self.knobs = np.array(list(itertools.product(steps, repeat=3)))
        # Some knobs hardly matter for accuracy and some hardly for latency: that is where near ties come from.
        gains, bends = np.exp(rng.uniform(np.log(0.02), np.log(0.6), 3)), rng.uniform(1.0, 4.0, 3)
        kept = np.prod(1 - gains * np.exp(-bends * self.knobs), axis=1)
        best = rng.uniform(0.6, 0.85)
        deviation = rng.normal(0, 0.004, len(self.knobs))
        self.accuracy = np.clip(best * kept / kept.max() + deviation, 0.02, 0.98)
        prices = np.exp(rng.uniform(np.log(2), np.log(60), 3))
        parts = 40 + self.knobs @ prices + 40 * self.knobs[:, 1] * self.knobs[:, 2]
        self.latency_ms = parts * np.exp(rng.normal(0, 0.01, len(self.knobs)))

    @property
    def on_front(self) -> NDArray[np.bool_]:
        """Which configurations truly no other dominates."""
        return non_dominated(np.column_stack([-self.accuracy, self.latency_ms]))

    def measure(self, samples: int, noise: float, seed: int, processes: int = 1) -> Measured:
        """One sweep: answers to ``samples`` questions, and latencies with ``noise`` in all (standard deviation)."""
        rng = np.random.default_rng([seed, samples])
        clusters = np.repeat(np.arange(samples), rng.poisson(QUESTIONS_A_PICTURE - 1, samples) + 1)[:samples]
        scores, chances = self.answers(clusters, rng)
        sessions = self._sessions(noise, processes, rng)
        middle = np.array([np.mean([np.median(times) for times in each]) for each in sessions])
        paired = PairedScores(scores=scores, clusters=clusters)
        return Measured(paired, middle, log_times(sessions, PROCESS_EFFECT), sessions, chances)

    def answers(self, clusters: NDArray[np.int64], rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        """(samples, configurations): scores of questions in these pictures, and the chances that each was right by."""
        samples, configurations = len(clusters), len(self.knobs)
        own = math.sqrt(SHARED) * rng.standard_normal(samples)
        own += math.sqrt(OF_PICTURE) * rng.standard_normal(samples)[clusters]
        needs = math.sqrt(self.of_knobs) * rng.standard_normal((samples, 3)) @ (1 - self.knobs).T
        noise = 1 - SHARED - OF_PICTURE
        known = own[:, None] + needs
        hard = known + math.sqrt(noise) * rng.standard_normal((samples, configurations))
        spread = np.sqrt(1 + self.of_knobs * ((1 - self.knobs) ** 2).sum(axis=1))
        able = np.array([NormalDist().inv_cdf(float(share)) for share in self.accuracy])
        chances = ndtr((able * spread - known) / math.sqrt(noise))
        return np.asarray(hard < able * spread, dtype=np.float64), np.asarray(chances)

    def _sessions(self, noise: float, processes: int, rng: np.random.Generator) -> list[list[list[float]]]:
        within = math.sqrt(max(1e-12, noise**2 - PROCESS_EFFECT**2))
        of_group = within * math.sqrt(GROUPS) / math.sqrt(math.pi / 2)
        configurations = len(self.knobs)
        shift = rng.normal(0, PROCESS_EFFECT, (configurations, processes, 1))
        logs = shift + rng.normal(0, of_group, (configurations, processes, GROUPS))
        times: list[list[list[float]]] = (self.latency_ms[:, None, None] * np.exp(logs)).tolist()
        return times
