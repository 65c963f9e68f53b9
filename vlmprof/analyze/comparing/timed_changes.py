"""Changes of times: which pairs of trials were timed alike, their sessions and canaries from the tables ``timings``.

The statistics are those of ``stats.latency_change``. Latencies of unlike devices, batch sizes, lengths or numbers of
requests are not compared, and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.caveats import CANARY
from vlmprof.analyze.comparability import machine
from vlmprof.analyze.comparing.changes import (
    Change,
    ComparedRun,
    Reader,
    as_text,
    fill,
    no_estimates,
    records,
    rows_of,
    unlike,
    values_of,
)
from vlmprof.analyze.comparing.matching import Matched
from vlmprof.stats.latency_change import (
    CanaryTimes,
    LatencyRatios,
    TimedRun,
    canary_times,
    latency_ratios,
    process_effect,
)
from vlmprof.stats.resampling import log_times

Numbers = NDArray[np.float64]
Positions = NDArray[np.int64]
RELATIVE = "canary_ratio"
"""The column of ``trials`` whose change is that of the latency relative to the canary."""
SAME_TIMING = ("timing_batch_size", "timing_output_tokens", "timing_requests")
UNLIKE_TIMING = (*SAME_TIMING, "device", "cpu", "cpu_threads", "knob_output_tokens")
"""The columns that ``unlike_timing`` looks at."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """What one run has of the times of a column."""

    rows: pd.DataFrame
    """Its trials of the pairs."""
    sessions: Mapping[str, Sequence[Sequence[float]]]
    """Trial -> session -> times of groups."""
    canaries: Mapping[tuple[str, ...], tuple[Mapping[str, int], CanaryTimes]]
    """Kind of canary -> where each trial stands in its times."""

    def timed_run(self, column: str, at: Positions, same_canary: Sequence[bool]) -> TimedRun:
        """The pairs at these positions."""
        rows = self.rows.iloc[at]
        known = [
            self._canary(row) if same else (math.nan, math.nan, math.inf)
            for row, same in zip(records(rows, CANARY), same_canary, strict=True)
        ]
        level, variance, freedom = np.array(known).T
        return TimedRun(
            log_latency=np.log(values_of(rows, column)),
            sessions=[self.sessions[str(trial)] for trial in rows["trial"]],
            canary_level=level,
            canary_variance=variance,
            canary_freedom=freedom,
        )

    def _canary(self, row: Mapping[Any, Any]) -> tuple[float, float, float]:
        places, times = self.canaries.get(_kind(row), ({}, None))
        if times is None or row["trial"] not in places:
            return math.nan, math.nan, math.inf
        place = places[row["trial"]]
        return float(times.level[place]), float(times.variance[place]), times.freedom or math.inf


def change_of_times(column: str, both: Sequence[Numbers], pairs: Matched, reader: Reader) -> Change:
    """The ratios of a time, as measured and relative to the canary; of ``RELATIVE`` the latter alone, of the latency.

    Args:
        column: of ``timing_blocks.TIMES``, or ``RELATIVE``.
        both: its values in the first and in the second run.
        pairs: what is compared.
        reader: takes what cannot be compared, and what the errors rest on.
    """
    timed = "latency_ms_p50" if column == RELATIVE else column
    sides = [
        _Side(rows=rows, sessions=_sessions(run, timed), canaries=_canaries(run, timed))
        for rows, run in zip((pairs.first, pairs.second), reader.sides, strict=True)
    ]
    reasons = [_why_not(a, b, sides, timed, reader) for a, b in rows_of(pairs, (*UNLIKE_TIMING, timed))]
    reader.tell(Counter(filter(None, reasons)), len(reasons), timed)
    change = Change(
        column=column,
        unit="ratio" if column == RELATIVE else "ms",
        by_ratio=True,
        first=both[0],
        second=both[1],
        estimates=no_estimates(len(reasons)),
        relative=None if column == RELATIVE or reader.canary != "both" else no_estimates(len(reasons)),
    )
    at = np.flatnonzero([not why for why in reasons])
    if at.size:
        _fill(change, at, _ratios(timed, at, sides, reader), reader)
    return change


def _why_not(first: dict[Any, Any], second: dict[Any, Any], sides: Sequence[_Side], column: str, reader: Reader) -> str:
    """Why the times of two trials are not compared; empty where they are."""
    if why := unlike_timing(first, second, across_devices=reader.across_devices):
        return why
    for row, side, run in zip((first, second), sides, reader.sides, strict=True):
        if not as_text(row, column) or str(row["trial"]) not in side.sessions:
            return f"without times in {run.name}"
    return ""


def unlike_timing(first: dict[Any, Any], second: dict[Any, Any], *, across_devices: bool) -> str:
    """How two trials were timed unlike each other, so that times, energy and memory do not compare; empty where not.

    Where a knob set the output tokens of both, the timed length is what is compared.
    """
    machines = [machine(row) for row in (first, second)]
    if machines[0] != machines[1] and not across_devices:
        return f"unlike devices, {machines[0]} and {machines[1]}"
    swept = as_text(first, "knob_output_tokens") and as_text(second, "knob_output_tokens")
    names = [name for name in SAME_TIMING if not (swept and name == "timing_output_tokens")]
    why = unlike(first, second, names)
    return f"unlike timing, {why}" if why else ""


def _ratios(column: str, at: Positions, sides: Sequence[_Side], reader: Reader) -> LatencyRatios:
    rows = [records(side.rows.iloc[at], CANARY) for side in sides]
    same = [_kind(a) == _kind(b) for a, b in zip(*rows, strict=True)]
    first, second = (side.timed_run(column, at, same) for side in sides)
    canaries = [times for side in sides[: len(reader.runs)] for _, times in side.canaries.values()]
    effect = process_effect(log_times([*first.sessions, *second.sessions]), canaries)
    reader.say(f"{column}: {effect.words}")
    return latency_ratios(first, second, effect)


def _fill(change: Change, at: Positions, ratios: LatencyRatios, reader: Reader) -> None:
    divided = change.column == RELATIVE or reader.canary == "divide"
    fill(change.estimates, at, ratios.relative if divided else ratios.measured)
    if change.relative is not None:
        fill(change.relative, at, ratios.relative)
    known = np.isfinite(ratios.canary)
    if not known.all():
        reader.caveats.append(
            f"{change.column}: in {int((~known).sum())} of {len(known)} pairs there is no canary of the same work on"
            " both sides, so drift of the machine is not corrected there"
        )
    if known.any() and change.relative is not None:
        reader.say(f"{change.column}: intervals cover the change as measured and that relative to the canary")
    if known.any():
        shift = float(np.expm1(np.median(ratios.canary[known])))
        reader.say(f"{change.column}: the canary took {100 * shift:+.1f} % in the second (median of pairs)")


def _sessions(run: ComparedRun, column: str) -> Mapping[str, Sequence[Sequence[float]]]:
    return timing_blocks.sessions_by_trial(run.times[~run.times["canary"]], column)


def _canaries(run: ComparedRun, column: str) -> Mapping[tuple[str, ...], tuple[Mapping[str, int], CanaryTimes]]:
    by_trial = timing_blocks.canaries_by_trial(run.times, column)
    of_kind: dict[tuple[str, ...], list[str]] = {}
    for row in records(run.trials, CANARY):
        if row["trial"] in by_trial:
            of_kind.setdefault(_kind(row), []).append(str(row["trial"]))
    return {
        kind: ({trial: i for i, trial in enumerate(trials)}, canary_times([by_trial[trial] for trial in trials]))
        for kind, trials in of_kind.items()
    }


def _kind(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Equal where the canary is the same work on the same kind of machine."""
    return tuple(as_text(dict(row), name) for name in CANARY)
