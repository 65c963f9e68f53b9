"""Ratios of the latencies of two configurations, with what the machine, the process and the canary add to their error.

A ratio of two latencies is read twice. *As measured*, the drift of the machine between the two is part of it. *Relative
to the canary*, the same small work that every trial repeats beside its own, drift that both share cancels. Neither is
right always: work that a GPU replays from a recording does not share the drift of the host that launches the canary, and a
change of software that slows everything slows the canary too. The truth is that of one of the two readings, or between
them, as far as the configuration shares between none and all of the canary's drift. So what is beyond a bound in both
is beyond it (an intersection-union test, Berger 1982, Technometrics 24:295).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.estimates import Estimates, welch_freedom
from vlmprof.stats.resampling import PROCESS_EFFECT, LogTimes, log_times

Numbers = NDArray[np.float64]
Sessions = Sequence[Sequence[Sequence[float]]]
OF_MEDIAN = math.pi / 2
"""By how much the variance of a median exceeds that of a mean, for normal noise."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CanaryTimes:
    """The canary in each trial of one run, on the logarithmic scale; all trials repeat the same work."""

    level: Numbers
    """(trials,): mean over sessions of the logarithm of the median."""
    variance: Numbers
    """(trials,): of the level, as far as the times within sessions leave it open; their spread is pooled."""
    freedom: float
    """Degrees of freedom of that spread; 0 where no session has two times."""
    spread: float
    """Standard deviation of the level from session to session, beyond what the times within leave open."""
    spread_freedom: float
    """Degrees of freedom of that; 0 for a single session."""


def canary_times(sessions: Sessions) -> CanaryTimes:
    """The level of the canary in each trial, and how much it differs from session to session.

    Args:
        sessions: trial -> session -> its times, above 0; one session or more each, one time or more in each.

    Raises:
        ValueError: a trial without times, or a time that is not above 0.
    """
    if not sessions or not all(each and all(each) for each in sessions):
        raise ValueError("expected times of every session of every trial")
    logs = [[np.log(np.asarray(times, dtype=np.float64)) for times in each] for each in sessions]
    every = [times for each in logs for times in each]
    if not all(np.isfinite(times).all() for times in every):
        raise ValueError("expected times above 0")
    freedom = sum(len(times) - 1 for times in every)
    noise = sum(float(((times - times.mean()) ** 2).sum()) for times in every) / freedom if freedom else 0.0
    medians = np.array([np.median(times) for times in every])
    explained = OF_MEDIAN * noise * float(np.mean([1 / len(times) for times in every]))
    between = float(medians.var(ddof=1)) if len(medians) > 1 else 0.0
    return CanaryTimes(
        level=np.array([np.mean([np.median(times) for times in each]) for each in logs]),
        variance=np.array([OF_MEDIAN * noise * np.mean([1 / len(t) for t in each]) / len(each) for each in logs]),
        freedom=float(freedom),
        spread=math.sqrt(max(0.0, between - explained)),
        spread_freedom=float(len(medians) - 1),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEffect:
    """How much a latency differs from one session to the next, as a share."""

    size: float
    freedom: float
    """Degrees of freedom; infinite where it is assumed."""
    source: str
    """``measured`` from configurations that were timed in several processes, ``canary``, or ``assumed``."""

    @property
    def words(self) -> str:
        """Where it comes from, for captions."""
        share = f"latency from session to session {100 * self.size:.2g} %"
        told = {
            "measured": "measured: configurations were timed in several processes",
            "canary": "as the canary shows it",
            "assumed": "assumed (timing.processes: 2 or more measures it)",
        }
        return f"{share}, {told[self.source]}"


def process_effect(times: LogTimes, canaries: Sequence[CanaryTimes], prior: float = PROCESS_EFFECT) -> ProcessEffect:
    """What is measured where configurations were timed in several processes; else what is assumed, or what the canary
    shows where that is more.

    Args:
        times: Of all configurations of both runs.
        canaries: Of the runs; those of one session say nothing.
        prior: What is assumed.
    """
    if times.is_measured:
        return ProcessEffect(size=times.process_effect, freedom=times.process_freedom, source="measured")
    freedom = sum(one.spread_freedom for one in canaries)
    shown = math.sqrt(sum(one.spread_freedom * one.spread**2 for one in canaries) / freedom) if freedom else 0.0
    if shown > prior:
        return ProcessEffect(size=shown, freedom=freedom, source="canary")
    return ProcessEffect(size=prior, freedom=math.inf, source="assumed")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedRun:
    """One of the two sides: an entry for each pair."""

    log_latency: Numbers
    """(pairs,)"""
    sessions: Sessions
    """pair -> session -> times of its groups."""
    canary_level: Numbers
    """(pairs,): NaN where there is no canary, or it is of other work than that of the other side."""
    canary_variance: Numbers
    canary_freedom: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyRatios:
    """The logarithm of each ratio, second over first, in both readings."""

    measured: Estimates
    relative: Estimates
    """To the canary; NaN where it cannot be."""
    canary: Numbers
    """(pairs,): the logarithm of the ratio of the canaries."""


def latency_ratios(first: TimedRun, second: TimedRun, effect: ProcessEffect) -> LatencyRatios:
    """The ratios of pairs of latencies.

    The variance of a logarithm is that of both medians (``resampling.log_times``) and, for each side, the process effect
    squared over its number of sessions; relative to the canary that of both canaries is added.
    """
    times = log_times([*first.sessions, *second.sessions], effect.size)
    pairs = len(first.log_latency)
    halves = (slice(None, pairs), slice(pairs, None))
    of_process = effect.size**2 * sum(1 / times.processes[half] for half in halves)
    variances = [*(times.within[half] ** 2 for half in halves), np.asarray(of_process)]
    freedoms = [*(times.freedom[half] for half in halves), np.full(pairs, effect.freedom)]
    value = second.log_latency - first.log_latency
    canary = second.canary_level - first.canary_level
    of_canaries = [
        (side.canary_variance, np.full(pairs, side.canary_freedom or math.inf)) for side in (first, second)
    ]
    return LatencyRatios(
        measured=_estimates(value, variances, freedoms),
        relative=_estimates(
            value - canary,
            [*variances, *(variance for variance, _ in of_canaries)],
            [*freedoms, *(freedom for _, freedom in of_canaries)],
        ),
        canary=canary,
    )


def _estimates(value: Numbers, variances: Sequence[Numbers], freedoms: Sequence[Numbers]) -> Estimates:
    error = np.sqrt(np.sum(variances, axis=0))
    return Estimates(value=value, error=error, freedom=welch_freedom(variances, freedoms))
