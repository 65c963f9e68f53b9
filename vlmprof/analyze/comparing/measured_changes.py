"""The change of each column: of scores sample by sample, of times as ratios, of all else by intervals in ``trials``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.comparing.changes import (
    Change,
    PairedColumns,
    Reader,
    fill,
    no_estimates,
    rows_of,
    unlike,
    values_of,
)
from vlmprof.analyze.comparing.matching import Matched
from vlmprof.analyze.comparing.timed_changes import RELATIVE, UNLIKE_TIMING, change_of_times, unlike_timing
from vlmprof.analyze.drawn_objectives import BY_RATIO, OF_TIME
from vlmprof.analyze.score_matrix import ScoreMatrix, score_matrix
from vlmprof.errors import UserError
from vlmprof.stats.estimates import Estimates, errors_of_intervals
from vlmprof.stats.paired import is_binary, paired_differences
from vlmprof.stats.resampling import PROCESS_EFFECT, PairedScores
from vlmprof.store.tables import schema_of

Numbers = NDArray[np.float64]
SAME_SCORING = ("metric", "task_revision")
OF_TIMING = (*OF_TIME, "s", "J", "bytes", "bytes/s", "ratio")
"""Units of what depends on the machine, and on the batch and length that were timed."""
COUNTED = ("bytes", "tokens", "samples", "crops", "blocks", "experts", "patches", "FLOP")
"""Units of what is counted, not measured: without an interval a value is exact."""


def change_of(column: str, pairs: Matched, reader: Reader) -> Change | None:
    """The change of one column in all pairs; None where no pair has it on both sides."""
    first, second = (values_of(rows, column) for rows in (pairs.first, pairs.second))
    if not np.isfinite(first + second).any():
        return None
    if column == "accuracy" or (column == "score" and _is_accuracy((first, second), pairs)):
        return _of_scores(column, (first, second), pairs, reader)
    if column in timing_blocks.TIMES or column == RELATIVE:
        return change_of_times(column, (first, second), pairs, reader)
    return _of_intervals(column, (first, second), pairs, reader)


def _is_accuracy(scores: Sequence[Numbers], pairs: Matched) -> bool:
    """Whether the score is the mean over samples in all pairs."""
    accuracies = [values_of(rows, "accuracy") for rows in (pairs.first, pairs.second)]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(scores, accuracies, strict=True))


def _of_scores(column: str, both: Sequence[Numbers], pairs: Matched, reader: Reader) -> Change:
    count = len(pairs.first)
    estimates = no_estimates(count)
    reasons: Counter[str] = Counter()
    alike: dict[tuple[Any, ...], list[tuple[int, ScoreMatrix]]] = {}
    for i, (a, b) in enumerate(rows_of(pairs, SAME_SCORING)):
        why = unlike(a, b, SAME_SCORING)
        if why or not np.isfinite(both[0][i] + both[1][i]):
            reasons[why or "one side has no accuracy"] += 1
            continue
        try:
            matrix = pair_scores(reader, str(a["trial"]), str(b["trial"]))
        except UserError as error:
            reasons[str(error)] += 1
            continue
        alike.setdefault((matrix.samples, matrix.paired.clusters.tobytes()), []).append((i, matrix))
    reader.tell(reasons, count, column)
    paired = tuple(_paired(members, estimates, reader.draws) for members in alike.values())
    _tell_left_out(paired, reader)
    return Change(
        column=column,
        unit="fraction",
        by_ratio=False,
        first=both[0],
        second=both[1],
        estimates=estimates,
        paired=paired,
    )


def pair_scores(reader: Reader, first: str, second: str) -> ScoreMatrix:
    """The scores of two trials, one of each run, on their common samples: the first column is the first run's.

    Raises:
        UserError: as ``score_matrix.score_matrix``.
    """
    parts = []
    for run, trial, name in ((reader.first, first, "the first"), (reader.second, second, "the second")):
        if trial not in run.scores:
            raise UserError(f"a trial of {run.name} has no rows of answers")
        rows = run.scores[trial]
        parts.append(rows.set_column(0, "trial", pa.array([name] * len(rows), pa.string())))
    return score_matrix(pa.concat_tables(parts), ["the first", "the second"])


def _paired(members: Sequence[tuple[int, ScoreMatrix]], estimates: Estimates, draws: int) -> PairedColumns:
    """The differences of pairs that have the same samples; fills in their estimates."""
    at = np.array([i for i, _ in members])
    scores = [matrix.paired.scores for _, matrix in members]
    clusters = members[0][1].paired.clusters
    differences = PairedScores(scores=np.column_stack([of[:, 1] - of[:, 0] for of in scores]), clusters=clusters)
    found = paired_differences(differences, draws)
    fill(estimates, at, found.estimates)
    return PairedColumns(
        pairs=at,
        found=found,
        left_out=np.array([matrix.left_out for _, matrix in members]),
        binary=np.array([is_binary(of) for of in scores]),
    )


def _tell_left_out(paired: Sequence[PairedColumns], reader: Reader) -> None:
    lefts = [int(left) for part in paired for left in part.left_out if left]
    if lefts:
        reader.caveats.append(
            f"in {len(lefts)} pairs samples are scored on one side only, up to {max(lefts)}: they are left out"
        )


# --- everything else --------------------------------------------------------------------------------------------------


def _of_intervals(column: str, both: Sequence[Numbers], pairs: Matched, reader: Reader) -> Change:
    """From the intervals in ``trials``, each side by itself; without them what is counted is exact."""
    unit = unit_of(pairs, column)
    by_ratio = unit in BY_RATIO
    reasons = [_why_not(a, b, column, unit, reader) for a, b in rows_of(pairs, (*SAME_SCORING, *UNLIKE_TIMING))]
    comparable = np.isfinite(both[0] + both[1]) & np.array([not why for why in reasons])
    if by_ratio:
        comparable &= np.minimum(*both) > 0
    known = np.isfinite(both[0] + both[1])
    reader.tell(
        Counter(why for why, is_known in zip(reasons, known, strict=True) if why and is_known), len(known), column
    )
    values = [np.log(np.where(comparable, of, np.nan)) if by_ratio else np.where(comparable, of, np.nan) for of in both]
    errors = [
        _errors(rows, column, of, by_ratio=by_ratio) for rows, of in zip((pairs.first, pairs.second), both, strict=True)
    ]
    lacking = np.isnan(errors[0] + errors[1])
    exact = unit in COUNTED and bool(lacking[comparable].all())
    effect = PROCESS_EFFECT if unit in OF_TIME else 0.0
    error = np.hypot(np.hypot(*errors), effect * np.sqrt(2))
    if exact:
        reader.say(f"{column} taken as exact: it has no interval")
    elif effect:
        share = f"{100 * effect:g} % from session to session"
        reader.say(f"{column}: by the intervals of the two, {share} assumed; drift of the machine is not corrected")
    return Change(
        column=column,
        unit=unit,
        by_ratio=by_ratio,
        first=both[0],
        second=both[1],
        estimates=Estimates(
            value=values[1] - values[0],
            error=np.zeros(len(lacking)) if exact else error,
            freedom=np.full(len(lacking), np.inf),
        ),
        has_error=exact or not lacking[comparable].all(),
    )


def _why_not(first: dict[Any, Any], second: dict[Any, Any], column: str, unit: str, reader: Reader) -> str:
    """Why a column of two trials is not compared; empty where it is."""
    if column == "score":
        return unlike(first, second, SAME_SCORING)
    if unit in OF_TIMING:
        return unlike_timing(first, second, across_devices=reader.across_devices)
    return ""


def _errors(rows: Any, column: str, values: Numbers, *, by_ratio: bool) -> Numbers:
    low, high = (values_of(rows, f"{column}_{end}") for end in ("low", "high"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return errors_of_intervals(values, low, high, logarithms=by_ratio)


def unit_of(pairs: Matched, column: str) -> str:
    """The unit of a column of ``trials``."""
    schema = schema_of(pairs.first)
    unit: bytes = (schema.field(column).metadata or {}).get(b"unit", b"") if column in schema.names else b""
    return unit.decode()
