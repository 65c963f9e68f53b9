"""Draws of what the columns of ``trials`` may truly be, each in the way in which it was measured.

Accuracy is drawn from ``samples``, all configurations on the same pictures; a median time from ``timings``, with the
process effect; what has an interval in ``trials`` from that, each configuration by itself; anything else is exact. What
the draws rest on is said in ``captions``, what could not be had in ``caveats``, with numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.objectives import QUALITY, Objective
from vlmprof.analyze.score_matrix import COLUMNS, score_matrix
from vlmprof.stats.estimates import errors_of_intervals
from vlmprof.stats.resampling import DRAWS, PROCESS_EFFECT, PairedScores, log_times, mean_covariance, mean_draws
from vlmprof.stats.uncertain_front import DrawnObjective
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Numbers = NDArray[np.float64]
BY_RATIO = ("ms", "s", "samples/s", "tokens/s", "J", "bytes", "ratio", "FLOP", "tokens")
"""Units of which a percent means the same at any size: differences are those of logarithms."""
OF_TIME = ("ms", "samples/s", "tokens/s")


@final
@dataclass(slots=True, kw_only=True)
class SweepReader:
    """What a folder holds, read once for all of its groups of trials, and only if one needs it."""

    folder: Where
    _samples: pa.Table | None = field(default=None, init=False)
    _times: pd.DataFrame | None = field(default=None, init=False)

    @property
    def samples(self) -> pa.Table:
        if self._samples is None:
            self._samples = tables.read_columns(self.folder, "samples", COLUMNS)
        return self._samples

    @property
    def times(self) -> pd.DataFrame:
        if self._times is None:
            self._times = timing_blocks.read_times(self.folder)
        return self._times


@final
@dataclass(slots=True, kw_only=True)
class Told:
    """Sentences that gather while a group of trials is looked at."""

    captions: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def is_by_ratio(rows: pd.DataFrame, objective: Objective) -> bool:
    """Whether differences of this column are those of logarithms; see ``BY_RATIO``."""
    values = rows[objective.column].to_numpy(dtype=np.float64)
    return objective.unit in BY_RATIO and bool((values > 0).all())


def cost_of(rows: pd.DataFrame, objective: Objective) -> Numbers:
    """(configurations,): the column as a cost, of which less is better; on the logarithmic scale where that is used."""
    values = rows[objective.column].to_numpy(dtype=np.float64)
    return np.asarray(objective.sign * (np.log(values) if is_by_ratio(rows, objective) else values))


def values_of(rows: pd.DataFrame, objective: Objective, costs: Numbers) -> Numbers:
    """Costs as values of the objective, in its unit."""
    values = np.exp(objective.sign * costs) if is_by_ratio(rows, objective) else objective.sign * costs
    return np.asarray(np.clip(values, 0, 1) if objective.unit == "fraction" else values)


def drawn_objective(
    rows: pd.DataFrame, objective: Objective, seed: int, reader: SweepReader, told: Told
) -> DrawnObjective:
    """The objective with draws of what it may truly be.

    Args:
        rows: trials of one group that all measured it.
        objective: any column of numbers; one without a direction counts as lower is better.
        seed: equal for columns whose draws shall be equal.
        reader: of the folder of these trials.
        told: gains what the draws rest on, and what could not be had.

    Raises:
        UserError: the scores of these trials cannot be compared; see ``analyze.score_matrix``.
    """
    if is_of_samples(rows, objective.column):
        return _of_scores(rows, objective, seed, reader, told)
    if objective.column in timing_blocks.TIMES and is_by_ratio(rows, objective):
        sessions = timing_blocks.sessions_of(reader.times, objective.column, rows["trial"].tolist())
        if sessions is not None:
            times = log_times(sessions)
            told.captions.append(times.words)
            costs = cost_of(rows, objective)
            return DrawnObjective(
                costs=costs, draws=costs + times.draws(DRAWS, seed), errors=_independent(times.errors)
            )
    return _of_intervals(rows, objective, seed, told)


def is_of_samples(rows: pd.DataFrame, column: str) -> bool:
    """Whether a column of these trials is the mean of the scores in ``samples``."""
    return column == QUALITY or (column == "score" and bool(rows["accuracy"].notna().all()))


def _of_scores(rows: pd.DataFrame, objective: Objective, seed: int, reader: SweepReader, told: Told) -> DrawnObjective:
    matrix = score_matrix(reader.samples, rows["trial"].tolist())
    told.caveats += matrix.caveats
    paired, costs = matrix.paired, cost_of(rows, objective)
    deviations = mean_draws(paired, DRAWS, seed) - paired.means
    return DrawnObjective(
        costs=costs, draws=costs - deviations, errors=_paired_errors(paired, rows["work_key"].tolist())
    )


def _paired_errors(paired: PairedScores, works: Sequence[Any]) -> Numbers:
    """Standard errors of differences of means: 0 for the same work, else that of one sample that differs at least."""
    covariance = mean_covariance(paired)
    each = np.diag(covariance)
    errors = np.sqrt(np.maximum(each[:, None] + each - 2 * covariance, 1 / len(paired.scores) ** 2))
    keys = np.array([str(work) for work in works])
    alike = (keys[:, None] == keys) & (paired.means[:, None] == paired.means)
    np.fill_diagonal(alike, val=True)
    return np.asarray(np.where(alike, 0.0, errors))


def _of_intervals(rows: pd.DataFrame, objective: Objective, seed: int, told: Told) -> DrawnObjective:
    """From the intervals in ``trials``, each configuration by itself; without them the objective is exact."""
    costs, name = cost_of(rows, objective), objective.column
    ends = [rows.get(f"{name}_{end}") for end in ("low", "high")]
    errors = np.zeros(len(costs))
    if all(end is not None and end.notna().all() for end in ends):
        low, high = (end.to_numpy(dtype=np.float64) for end in ends if end is not None)
        values = rows[name].to_numpy(dtype=np.float64)
        errors = errors_of_intervals(values, low, high, logarithms=is_by_ratio(rows, objective))
        told.caveats.append(f"{name}: differences are told apart by the intervals of the two, not in pairs")
    elif objective.unit not in OF_TIME:
        told.captions.append(f"{name} taken as exact: it has no interval")
    if objective.unit in OF_TIME:
        errors = np.hypot(errors, PROCESS_EFFECT)
        told.captions.append(f"{name} from process to process {100 * PROCESS_EFFECT:g} %, assumed")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((DRAWS, len(costs)))
    return DrawnObjective(costs=costs, draws=costs + errors * noise, errors=_independent(errors))


def _independent(errors: Numbers) -> Numbers:
    return np.asarray(np.hypot(errors[:, None], errors) * (1 - np.eye(len(errors))))
