"""``time_left``: estimates the remaining time of a sweep, for the run display, ``status`` and the watch page alike.

A trial runs steps one after another: load, count, score, audit, wait, time. The heartbeat holds the relative cost of
each step of each trial, and sums of cost and seconds over the completed steps. A line fitted to these sums, with a
prior close to proportionality, converts cost into seconds. For a running trial the estimate uses its progress. Waiting
trials are assigned, longest first, to as many lanes as trials have run at once, and as many time at once as have done
so. If the heartbeat has no costs, each trial is assumed to take the mean duration of the trials that ended.

The estimate never grows merely because time passes: the remainder of a step that takes longer than predicted is the
mean of the normal distribution above the elapsed time, less the elapsed time; it falls as time passes.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from vlmprof.store.heartbeat import STEPS, Heartbeat, RunningTrial, Step, StepTotals, TrialWork

if TYPE_CHECKING:
    from vlmprof.analyze.status import SweepStatus

SLOPE, SLOPE_WEIGHT = 0.8, 0.25
"""Prior of the fitted line: if the cost is 1 % above its mean, the seconds are 0.8 % above theirs. It weighs as much as
two observations with costs 70 % apart."""
SCATTER, SCATTER_WEIGHT = 0.15, 2.0
"""Prior of the scatter about the line: 15 % (one standard deviation). It weighs as much as two trials."""
UNLIKE = 0.5
"""Prior of the spread of trials of unknown cost: 50 % of their mean. It weighs as much as one trial."""
LEAST = 0.05
"""No step is predicted to take less than this share of the mean duration of that step."""
WITHIN_95 = 1.96
"""Half-width of the 95 % interval of a normal distribution, in standard deviations."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """Remaining time of a sweep, its uncertainty and its basis."""

    seconds: float
    give_or_take: float
    """Half the width of the 95 % interval, seconds."""
    basis: str
    """What the estimate is based on, for display."""

    @property
    def low(self) -> float:
        """The lower end of the interval, seconds; never below 0."""
        return max(0.0, self.seconds - self.give_or_take)

    @property
    def high(self) -> float:
        """The upper end of the interval, seconds."""
        return self.seconds + self.give_or_take


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    """An estimated duration with its uncertainty."""

    seconds: float
    variance: float = 0.0
    """Variance of the part that is independent between trials, in squared seconds."""
    shared: float = 0.0
    """Standard deviation of the part that all trials share, the error of the fitted line, in seconds."""

    def __add__(self, other: _Estimate) -> _Estimate:
        return _Estimate(
            seconds=self.seconds + other.seconds,
            variance=self.variance + other.variance,
            shared=self.shared + other.shared,
        )

    def times(self, share: float) -> _Estimate:
        """This duration multiplied by ``share``."""
        return _Estimate(
            seconds=share * self.seconds, variance=share * share * self.variance, shared=share * self.shared
        )

    def after(self, elapsed_s: float) -> _Estimate:
        """Remaining duration after ``elapsed_s`` seconds, given that it has not ended: the mean of a normal tail."""
        deviation = math.sqrt(self.variance + self.shared**2)
        remaining = tail_mean(self.seconds - elapsed_s, max(deviation, LEAST * self.seconds))
        return _Estimate(seconds=remaining, variance=self.variance, shared=self.shared)


NOTHING = _Estimate(seconds=0.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """Remaining duration of a trial, or summed over a group of similar trials."""

    first: _Estimate
    """Until its timing pass; until its end if it is timing already or if the duration of timing is not known."""
    timing: _Estimate = NOTHING
    is_timing: bool = False
    trials: int = 1


def tail_mean(mean: float, deviation: float) -> float:
    """Mean of a normal variable, given that it is above 0; the result is at least 0 and falls as ``mean`` falls."""
    if deviation <= 0:
        return max(0.0, mean)
    z = mean / deviation
    if z < -25:  # erfc underflows: use the first terms of the asymptotic expansion of the tail
        return deviation / -z
    probability_above_0 = 0.5 * math.erfc(-z / math.sqrt(2))
    return mean + deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / probability_above_0


@final
class _Line:
    """Seconds of one step as a linear function of its cost, fitted to the completed steps."""

    def __init__(self, totals: StepTotals) -> None:
        """Fit to the totals of at least one completed step with a cost above 0."""
        n = totals.count
        self._n, self._cost, self._seconds = n, totals.cost / n, totals.seconds / n
        # Sums of squared deviations (cost, seconds) and of their products, relative to the means.
        self._spread = _relative(totals.cost_squared, self._cost * self._cost, n)
        covariation = _relative(totals.cost_seconds, self._cost * self._seconds, n)
        seconds_spread = _relative(totals.seconds_squared, self._seconds * self._seconds, n)
        slope = (covariation + SLOPE_WEIGHT * SLOPE) / (self._spread + SLOPE_WEIGHT)
        self._slope = min(1.5, max(0.0, slope))
        residual = max(0.0, seconds_spread - 2 * self._slope * covariation + self._slope**2 * self._spread)
        self._scatter = math.sqrt((SCATTER_WEIGHT * SCATTER**2 + residual) / (SCATTER_WEIGHT + n - 1))

    def at(self, cost: float, trials: int = 1) -> _Estimate:
        """Predicted sum of seconds over ``trials`` trials that have this total cost."""
        x = cost / trials / self._cost - 1
        per_trial = self._seconds * max(LEAST, 1 + self._slope * x)
        deviation = self._scatter * per_trial
        line_error = math.sqrt(1 / self._n + x * x / (self._spread + SLOPE_WEIGHT))
        return _Estimate(
            seconds=trials * per_trial,
            variance=trials * deviation * deviation,
            shared=trials * self._scatter * self._seconds * line_error,
        )


def _relative(squares: float, square_of_mean: float, n: int) -> float:
    """Sum of ``n`` squared deviations from the mean, divided by the square of the mean; 0 for a mean of 0."""
    return max(0.0, squares / square_of_mean - n) if square_of_mean > 0 else 0.0


def time_left(status: SweepStatus, heartbeat: Heartbeat | None) -> TimeLeft | None:
    """Remaining time of a sweep; None if no process runs it, nothing is left to do or no trial has ended yet.

    Args:
        status: Status of the sweep.
        heartbeat: Its latest heartbeat.
    """
    if status.sign != "alive" or heartbeat is None or not status.seconds_of_ended:
        return None
    not_begun = heartbeat.not_begun if heartbeat.not_begun is not None else status.counts["waiting"]
    if not (not_begun or heartbeat.running):
        return None
    return _by_cost(status, heartbeat, not_begun) or _by_mean(status, heartbeat, not_begun)


def _by_cost(status: SweepStatus, heartbeat: Heartbeat, not_begun: int) -> TimeLeft | None:
    """The estimate from costs; None if a cost is not known, or a needed step has never been completed."""
    lines = {step: _Line(totals) for step, totals in heartbeat.steps.items() if totals.count and totals.cost > 0}
    works = [trial.work for trial in heartbeat.running.values()]
    known = [work for work in works if work is not None]
    waiting = list(heartbeat.waiting)
    if len(known) < len(works) or sum(work.trials for work in waiting) != not_begun:
        return None
    if any(work.cost(step) > 0 and step not in lines for step in ("score", "time") for work in [*known, *waiting]):
        return None
    running = [_rest_of_running(trial, lines) for trial in heartbeat.running.values()]
    to_begin = [_rest_of_waiting(work, lines) for work in waiting]
    return _in_lanes(running, to_begin, heartbeat, f"from the work of {_ended(status)}")


def _by_mean(status: SweepStatus, heartbeat: Heartbeat, not_begun: int) -> TimeLeft:
    """The estimate without costs: each trial is assumed to take the mean duration of those that ended."""
    durations = status.seconds_of_ended
    n, mean = len(durations), statistics.fmean(durations)
    spread = sum((seconds - mean) ** 2 for seconds in durations)
    deviation = math.sqrt(((UNLIKE * mean) ** 2 + spread) / n)
    per_trial = _Estimate(seconds=mean, variance=deviation**2, shared=deviation / math.sqrt(n))
    running = [_Rest(first=per_trial.after(trial.seconds)) for trial in heartbeat.running.values()]
    to_begin = [_Rest(first=per_trial)] * not_begun
    return _in_lanes(running, to_begin, heartbeat, f"mean of {_ended(status)}: {mean:.3g} s")


def _ended(status: SweepStatus) -> str:
    n = len(status.seconds_of_ended)
    return f"{n} ended trials" if n > 1 else "1 ended trial"


def _in_lanes(running: Sequence[_Rest], to_begin: Sequence[_Rest], heartbeat: Heartbeat, basis: str) -> TimeLeft:
    """Time until the last lane is idle; its relative uncertainty is that of the total work."""
    lanes = max(1, heartbeat.lanes, len(running))
    rests = [*running, *to_begin]
    total = sum((part for rest in rests for part in (rest.first, rest.timing)), NOTHING)
    seconds = _last_end(running, to_begin, lanes, max(1, heartbeat.timing_lanes))
    share = math.sqrt(total.variance + total.shared**2) / total.seconds if total.seconds > 0 else 0.0
    at_once = f", {lanes} at a time" if lanes > 1 else ""
    return TimeLeft(seconds=seconds, give_or_take=WITHIN_95 * share * seconds, basis=f"{basis}{at_once}")


def _last_end(running: Sequence[_Rest], to_begin: Sequence[_Rest], lanes: int, timing_lanes: int) -> float:
    """Seconds until the last trial ends, if each free lane takes the longest waiting trial.

    At most ``timing_lanes`` trials are in their timing pass at once; the others wait.
    """
    singles = [(rest.first.seconds / rest.trials, rest.timing.seconds / rest.trials, rest.trials) for rest in to_begin]
    waiting = deque((first, timing) for first, timing, trials in sorted(singles, reverse=True) for _ in range(trials))
    slots = sorted([rest.first.seconds for rest in running if rest.is_timing], reverse=True)[:timing_lanes]
    slots += [0.0] * (timing_lanes - len(slots))
    # Event: (time, seconds of timing). With 0 seconds the lane becomes free, otherwise its trial is ready to be timed.
    events = [(rest.first.seconds, rest.timing.seconds) for rest in running]
    events += [(0.0, 0.0)] * (lanes - len(running))
    heapq.heapify(slots)
    heapq.heapify(events)
    now = 0.0
    while events:
        now, timing = heapq.heappop(events)
        if timing > 0:
            end = max(now, slots[0]) + timing
            heapq.heapreplace(slots, end)
            heapq.heappush(events, (end, 0.0))
        elif waiting:
            first, timing = waiting.popleft()
            heapq.heappush(events, (now + first, timing))
    return now


def _rest_of_waiting(work: TrialWork, lines: Mapping[str, _Line]) -> _Rest:
    """All steps of a trial, or of a group of trials, that has not begun."""
    first = sum((_step(work, step, lines) for step in STEPS if step != "time"), NOTHING)
    return _Rest(first=first, timing=_step(work, "time", lines), trials=work.trials)


def _step(work: TrialWork, step: Step, lines: Mapping[str, _Line]) -> _Estimate:
    """Predicted duration of one step; ``NOTHING`` if it has no cost or was never completed."""
    cost = work.cost(step)
    return lines[step].at(cost, work.trials) if cost > 0 and step in lines else NOTHING


def _rest_of_running(trial: RunningTrial, lines: Mapping[str, _Line]) -> _Rest:
    """The rest of the current step of a running trial, and its later steps."""
    assert trial.work is not None, "_by_cost returns None if any cost is unknown"
    current = _rest_of_step(trial, _step(trial.work, trial.step, lines))
    if trial.step == "time":
        return _Rest(first=current, is_timing=True)
    later = [step for step in STEPS[STEPS.index(trial.step) + 1 :] if step != "time"]
    until_timing = sum((_step(trial.work, step, lines) for step in later), current)
    return _Rest(first=until_timing, timing=_step(trial.work, "time", lines))


def _rest_of_step(trial: RunningTrial, predicted: _Estimate) -> _Estimate:
    """The rest of a trial's current step, whose full duration is ``predicted``.

    While scoring, the pace so far counts in proportion to the share that is done, and the prediction for the rest.
    """
    if trial.step != "score" or trial.total <= trial.done_before:
        return predicted.after(trial.step_seconds)
    share = (trial.done - trial.done_before) / (trial.total - trial.done_before)
    predicted = predicted.times((trial.total - trial.done_before) / trial.total)  # a resumed trial scores only a part
    spent = max(0.0, trial.step_seconds - trial.quiet_seconds)  # up to the last progress report
    updated = _Estimate(
        seconds=spent + (1 - share) * predicted.seconds, variance=predicted.variance, shared=predicted.shared
    )
    return updated.times(1 - share).after(trial.quiet_seconds)
