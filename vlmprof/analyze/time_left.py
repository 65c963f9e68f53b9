"""``time_left``: how long a sweep still takes. The one estimate that the run display, ``status`` and the page show.

A trial takes steps one after another: load, count, score, audit, wait, time. The heartbeat says what each step of each
trial costs in relative units, and sums of cost and seconds over the steps that have been completed. A line through
these, drawn towards proportionality while little is known, turns cost into seconds. What runs is judged by how far it
has come. What waits is handed out, longest first, to as many lanes as trials have run at once; as many of them time at
once as have been seen to. Where the heartbeat has no costs, the mean duration of the trials that ended stands for each.

Time that merely passes never makes the estimate grow: what is left of a step that outlasts its prediction is the mean
of the normal distribution beyond what has passed, which falls as time does.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.analyze.status import SweepStatus
from vlmprof.store.heartbeat import STEPS, Heartbeat, RunningTrial, Step, StepTotals, TrialWork

SLOPE, SLOPE_WEIGHT = 0.8, 0.25
"""Before anything is known: seconds grow by 0.8 of what cost grows by, as firmly as two costs 70 % apart would say."""
SCATTER, SCATTER_WEIGHT = 0.15, 2.0
"""Before anything is known: seconds lie within 15 % (one standard deviation) of the line, as two trials would say."""
UNLIKE = 0.5
"""Trials whose costs are not known differ by half of their mean, as one trial would say."""
LEAST = 0.05
"""No step is predicted to take less than this share of the mean of its kind."""
WITHIN_95 = 1.96


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """How long a sweep still takes, and on what that rests."""

    seconds: float
    give_or_take: float
    """Half of a 95 % interval, seconds."""
    basis: str

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
class _Guess:
    """A number of seconds that is not known for certain."""

    seconds: float
    variance: float = 0.0
    """Of what is independent between trials, in squared seconds."""
    shared: float = 0.0
    """Standard deviation of what all trials have in common: the fitted line, in seconds."""

    def __add__(self, other: _Guess) -> _Guess:
        return _Guess(
            seconds=self.seconds + other.seconds,
            variance=self.variance + other.variance,
            shared=self.shared + other.shared,
        )

    def times(self, share: float) -> _Guess:
        """A share of it."""
        return _Guess(seconds=share * self.seconds, variance=share * share * self.variance, shared=share * self.shared)

    def after(self, passed: float) -> _Guess:
        """What is left of it when so many seconds have passed without its end: the mean of a normal tail."""
        deviation = math.sqrt(self.variance + self.shared**2)
        left = tail_mean(self.seconds - passed, max(deviation, LEAST * self.seconds))
        return _Guess(seconds=left, variance=self.variance, shared=self.shared)


NOTHING = _Guess(seconds=0.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """What is left of a trial, or of a group of alike ones."""

    first: _Guess
    """Up to its timing pass; or to its end, where it is in that already, or where nothing is known of timing."""
    timing: _Guess = NOTHING
    is_timing: bool = False
    trials: int = 1


def tail_mean(mean: float, deviation: float) -> float:
    """Mean of a normal variable, given that it is above 0; positive, and it falls as ``mean`` falls."""
    if deviation <= 0:
        return max(0.0, mean)
    z = mean / deviation
    if z < -25:  # beyond what the error function resolves; the first terms of the tail's expansion
        return deviation / -z
    above = 0.5 * math.erfc(-z / math.sqrt(2))
    return mean + deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / above


@final
class _Line:
    """Seconds of one step as a function of its cost, fitted to what has been completed."""

    def __init__(self, totals: StepTotals) -> None:
        """Of at least one completed step, with a cost above 0."""
        n = totals.count
        self._n, self._cost, self._seconds = n, totals.cost / n, totals.seconds / n
        # Deviations from the means, relative to them: of cost, of both, of seconds.
        self._spread = _relative(totals.cost_squared, self._cost * self._cost, n)
        both = _relative(totals.cost_seconds, self._cost * self._seconds, n)
        seconds = _relative(totals.seconds_squared, self._seconds * self._seconds, n)
        slope = (both + SLOPE_WEIGHT * SLOPE) / (self._spread + SLOPE_WEIGHT)
        self._slope = min(1.5, max(0.0, slope))
        residual = max(0.0, seconds - 2 * self._slope * both + self._slope**2 * self._spread)
        self._scatter = math.sqrt((SCATTER_WEIGHT * SCATTER**2 + residual) / (SCATTER_WEIGHT + n - 1))

    def at(self, cost: float, trials: int = 1) -> _Guess:
        """Seconds of so many trials with this cost together."""
        x = cost / trials / self._cost - 1
        each = self._seconds * max(LEAST, 1 + self._slope * x)
        own = self._scatter * each
        doubt = math.sqrt(1 / self._n + x * x / (self._spread + SLOPE_WEIGHT))
        return _Guess(
            seconds=trials * each,
            variance=trials * own * own,
            shared=trials * self._scatter * self._seconds * doubt,
        )


def _relative(squares: float, square_of_mean: float, n: int) -> float:
    return max(0.0, squares / square_of_mean - n) if square_of_mean > 0 else 0.0


def time_left(now: SweepStatus, pulse: Heartbeat | None) -> TimeLeft | None:
    """How long the rest of a sweep takes; None where nobody is at work, nothing is left or no trial has ended yet.

    Args:
        now: Where the sweep stands.
        pulse: Its last heartbeat.
    """
    if now.sign != "alive" or pulse is None or not now.seconds_of_ended:
        return None
    count = pulse.not_begun if pulse.not_begun is not None else now.counts["waiting"]
    if not (count or pulse.running):
        return None
    return _by_cost(now, pulse, count) or _by_mean(now, pulse, count)


def _by_cost(now: SweepStatus, pulse: Heartbeat, not_begun: int) -> TimeLeft | None:
    """The estimate from costs; None where a cost is not known, or a step has never been completed."""
    lines = {step: _Line(totals) for step, totals in pulse.steps.items() if totals.count and totals.cost > 0}
    works = [one.work for one in pulse.running.values()]
    known = [work for work in works if work is not None]
    waiting = list(pulse.waiting)
    if len(known) < len(works) or sum(work.trials for work in waiting) != not_begun:
        return None
    if any(work.cost(step) > 0 and step not in lines for step in ("score", "time") for work in [*known, *waiting]):
        return None
    under_way = [_left_of(one, lines) for one in pulse.running.values()]
    to_come = [_whole(work, lines) for work in waiting]
    return _in_lanes(under_way, to_come, pulse, f"from the work of {_ended(now)}")


def _by_mean(now: SweepStatus, pulse: Heartbeat, not_begun: int) -> TimeLeft:
    """The estimate where no costs are known: each trial takes what those that ended took on average."""
    took = now.seconds_of_ended
    n, mean = len(took), statistics.fmean(took)
    spread = sum((seconds - mean) ** 2 for seconds in took)
    deviation = math.sqrt(((UNLIKE * mean) ** 2 + spread) / n)
    each = _Guess(seconds=mean, variance=deviation**2, shared=deviation / math.sqrt(n))
    under_way = [_Rest(first=each.after(one.seconds)) for one in pulse.running.values()]
    return _in_lanes(under_way, [_Rest(first=each)] * not_begun, pulse, f"mean of {_ended(now)}: {mean:.3g} s")


def _ended(now: SweepStatus) -> str:
    n = len(now.seconds_of_ended)
    return f"{n} ended trials" if n > 1 else "1 ended trial"


def _in_lanes(under_way: Sequence[_Rest], to_come: Sequence[_Rest], pulse: Heartbeat, basis: str) -> TimeLeft:
    """When the last lane is done, and how sure that is."""
    lanes = max(1, pulse.lanes, len(under_way))
    rests = [*under_way, *to_come]
    total = sum((part for rest in rests for part in (rest.first, rest.timing)), NOTHING)
    seconds = _last_end(under_way, to_come, lanes, max(1, pulse.timing_lanes))
    share = math.sqrt(total.variance + total.shared**2) / total.seconds if total.seconds > 0 else 0.0
    at_once = f", {lanes} at a time" if lanes > 1 else ""
    return TimeLeft(seconds=seconds, give_or_take=WITHIN_95 * share * seconds, basis=f"{basis}{at_once}")


def _last_end(under_way: Sequence[_Rest], to_come: Sequence[_Rest], lanes: int, timing_lanes: int) -> float:
    """Seconds until the last trial ends, if each free lane takes the longest that waits and so many time at once."""
    singles = [(rest.first.seconds / rest.trials, rest.timing.seconds / rest.trials, rest.trials) for rest in to_come]
    waiting = deque((first, timing) for first, timing, trials in sorted(singles, reverse=True) for _ in range(trials))
    slots = sorted([rest.first.seconds for rest in under_way if rest.is_timing], reverse=True)[:timing_lanes]
    slots += [0.0] * (timing_lanes - len(slots))
    # What happens next: a lane is free (no timing), or a trial is ready to be timed for so many seconds.
    events = [(rest.first.seconds, rest.timing.seconds) for rest in under_way]
    events += [(0.0, 0.0)] * (lanes - len(under_way))
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


def _whole(work: TrialWork, lines: Mapping[str, _Line]) -> _Rest:
    """Of a trial, or a group of them, that has not begun."""
    first = sum((_step(work, step, lines) for step in STEPS if step != "time"), NOTHING)
    return _Rest(first=first, timing=_step(work, "time", lines), trials=work.trials)


def _step(work: TrialWork, step: Step, lines: Mapping[str, _Line]) -> _Guess:
    cost = work.cost(step)
    return lines[step].at(cost, work.trials) if cost > 0 and step in lines else NOTHING


def _left_of(one: RunningTrial, lines: Mapping[str, _Line]) -> _Rest:
    """Of a running trial: the rest of the step that it is at, and the steps to come."""
    assert one.work is not None, "asked only where every cost is known"
    rest = _rest_of_step(one, _step(one.work, one.step, lines))
    if one.step == "time":
        return _Rest(first=rest, is_timing=True)
    later = [step for step in STEPS[STEPS.index(one.step) + 1 :] if step != "time"]
    to_come = sum((_step(one.work, step, lines) for step in later), rest)
    return _Rest(first=to_come, timing=_step(one.work, "time", lines))


def _rest_of_step(one: RunningTrial, whole: _Guess) -> _Guess:
    """Of the step that a trial is at; where it says how far it is, what it has taken so far counts as much as that."""
    if one.step != "score" or one.total <= one.done_before:
        return whole.after(one.step_seconds)
    share = (one.done - one.done_before) / (one.total - one.done_before)
    whole = whole.times((one.total - one.done_before) / one.total)
    spent = max(0.0, one.step_seconds - one.quiet_seconds)  # when it last said how far it is
    own = _Guess(seconds=spent + (1 - share) * whole.seconds, variance=whole.variance, shared=whole.shared)
    return own.times(1 - share).after(one.quiet_seconds)
