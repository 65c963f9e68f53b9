"""The values of a table for papers: of each configuration in one task, over several tasks, and against the full model.

``TaskValues`` is one column of ``trials`` for the rows of the table in one task; ``over_tasks`` averages it over
several tasks, which are independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.choosing.contests import GroupContest, group_contest, split_measured
from vlmprof.analyze.drawn_objectives import SweepReader, values_of
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.papers.paper_blocks import Block, Key
from vlmprof.stats.estimates import NORMAL, Estimates, holm
from vlmprof.stats.selection import NOBODY, optimism

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
WORK = "flop"
TOLD_APART = 0.05


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """The rows of one table, and what they are read from."""

    block: Block
    keys: Sequence[Key]
    schema: pa.Schema
    reader: SweepReader
    captions: list[str] = field(default_factory=list)
    """Gains what intervals rest on."""
    caveats: list[str] = field(default_factory=list)
    """Gains what could not be had."""
    _trials: dict[str, tuple[pd.DataFrame, list[str | None]]] = field(default_factory=dict, init=False)

    def trials(self, task: str) -> tuple[pd.DataFrame, list[str | None]]:
        """The trials of a task that are shown, with ``WORK``, and the trial of each row; None where it has none."""
        if task not in self._trials:
            self._trials[task] = self._read(task)
        return self._trials[task]

    def _read(self, task: str) -> tuple[pd.DataFrame, list[str | None]]:
        wanted = [self.block.trial(task, key) for key in self.keys]
        rows = self.block.tasks[task]
        part = rows[rows["trial"].isin([trial for trial in wanted if trial is not None])].reset_index(drop=True)
        part = part.assign(**{WORK: _work(part)})
        part.attrs = rows.attrs
        return part, wanted

    @property
    def full(self) -> Places:
        """(rows,): the row of the full model of the same model; -1 where that is not in the table."""
        places = {key: i for i, key in enumerate(self.keys)}
        of_model = {model: places.get(key, -1) for model, key in self.block.full.items()}
        return np.array([of_model.get(key[0], -1) for key in self.keys], dtype=np.int64)


def _work(part: pd.DataFrame) -> pd.Series[float]:
    """Operations of a sample: of the first token, and of the decode steps of a timed request."""
    steps = part["timing_output_tokens"].astype("float64") - 1
    first, step = (part[name].astype("float64") for name in ("flops_first_token", "flops_decode_step"))
    return first + steps * step


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskValues:
    """A column of one task or, averaged, of several; arrays are (rows,), NaN where nothing was measured."""

    objective: Objective
    value: Numbers
    low: Numbers
    high: Numbers
    difference: Numbers
    """Of the costs of a row and of the full model."""
    error: Numbers
    """Standard error of that difference; 0 where both are exact."""
    draws: Numbers | None = None
    """(draws, rows): what it may truly be; None where that is not known."""
    optimism: float | None = None
    """By how much the best value is too good, as it is the best of these rows; None where that is not known."""

    @property
    def told_apart(self) -> NDArray[np.bool_]:
        """(rows,): whether it differs from the full model at 95 %, with Holm's adjustment over the rows.

        False for all rows of a column without errors: what is exact need not be told apart.
        """
        if not (np.nan_to_num(self.error) > 0).any():
            return np.zeros(len(self.value), dtype=np.bool_)
        freedom = np.full(len(self.value), np.inf)
        estimates = Estimates(value=self.difference, error=self.error, freedom=freedom)
        return np.asarray(np.nan_to_num(holm(estimates.p_values()), nan=1.0) < TOLD_APART)


def task_values(shown: Shown, task: str, objective: Objective) -> TaskValues:
    """A column of ``trials``, or ``WORK``, for the rows of a table in one task."""
    part, wanted = shown.trials(task)
    rows, lacking = split_measured(part, [objective.column])
    shown.caveats.extend(f"{task}: {count} of {len(part)} {why}" for why, count in lacking.items())
    if rows.empty:
        nothing = np.full(len(wanted), np.nan)
        return TaskValues(
            objective=objective, value=nothing, low=nothing, high=nothing, difference=nothing, error=nothing
        )
    contest = group_contest(rows, objective, None, shown.schema, shown.reader)
    shown.captions.extend(sentence for sentence in contest.told.captions if "exact" not in sentence)
    shown.caveats.extend(f"{task}: {sentence}" for sentence in contest.told.caveats)
    places = {trial: i for i, trial in enumerate(rows["trial"])}
    at = np.array([places.get(str(trial), -1) for trial in wanted], dtype=np.int64)
    return _values(contest, at, shown.full)


def _values(contest: GroupContest, at: Places, full: Places) -> TaskValues:
    rows, objective = contest.rows, contest.objective
    one = contest.contest.columns[objective.column]
    low, high = _ends(contest)
    of_full = np.where(full >= 0, at[full], -1)
    compared = (at >= 0) & (of_full >= 0) & (at != of_full)
    return TaskValues(
        objective=objective,
        value=_placed(rows[objective.column].to_numpy(dtype=np.float64), at),
        low=_placed(low, at),
        high=_placed(high, at),
        difference=np.where(compared, one.costs[at] - one.costs[of_full], np.nan),
        error=np.where(compared & contest.is_drawn, one.errors[at, of_full], np.nan),
        draws=_placed(contest.values(objective.column, one.draws), at) if contest.is_drawn else None,
        optimism=_optimism(contest),
    )


def _placed(values: Numbers, at: Places) -> Numbers:
    """Values of trials as values of rows, along the last axis."""
    return np.asarray(np.where(at >= 0, values[..., at], np.nan))


def _ends(contest: GroupContest) -> tuple[Numbers, Numbers]:
    """The interval in ``trials``, else that of the draws, else NaN."""
    name = contest.objective.column
    if f"{name}_low" in contest.rows:
        low, high = (contest.rows[f"{name}_{end}"].to_numpy(dtype=np.float64) for end in ("low", "high"))
        return low, high
    one = contest.contest.columns[name]
    is_exact = (one.draws == one.costs).all(axis=0)
    reach = np.where(is_exact, np.nan, NORMAL * one.draws.std(axis=0))
    ends = [contest.values(name, one.costs + sign * reach) for sign in (-1, 1)]
    return np.minimum(*ends), np.maximum(*ends)


def _optimism(contest: GroupContest) -> float | None:
    """In the unit of the column."""
    one = contest.contest
    winner = int(one.winner(one.measured))
    if winner == NOBODY or not contest.is_drawn:
        return None
    name = contest.objective.column
    cost = one.measured[name][winner]
    ends = values_of(contest.rows, contest.objective, np.array([cost, cost + optimism(one)]))
    return float(abs(ends[1] - ends[0]))


def over_tasks(parts: Sequence[TaskValues]) -> TaskValues:
    """The mean over tasks of a column; NaN for a row that one of them did not measure.

    Half intervals and errors add up in squares, as tasks are sampled independently of each other.
    """
    if len(parts) == 1:
        return parts[0]
    value = np.mean([part.value for part in parts], axis=0)
    half = np.sqrt(np.sum([((part.high - part.low) / 2) ** 2 for part in parts], axis=0)) / len(parts)
    return TaskValues(
        objective=parts[0].objective,
        value=value,
        low=value - half,
        high=value + half,
        difference=np.mean([part.difference for part in parts], axis=0),
        error=np.sqrt(np.sum([part.error**2 for part in parts], axis=0)) / len(parts),
    )


def relative_to_full(parts: Sequence[TaskValues], full: Places) -> TaskValues:
    """The mean over tasks of quality as a share of the full model's, in percent; the full model is exactly 100.

    Intervals come from joint draws of both on the same samples.
    """
    objective = Objective(column="relative", better="higher", unit="%")
    shares = np.mean([_share(part.value, full) for part in parts], axis=0)
    nothing = np.full(len(shares), np.nan)
    if any(part.draws is None for part in parts):
        return TaskValues(
            objective=objective, value=shares, low=nothing, high=nothing, difference=nothing, error=nothing
        )
    draws = np.mean([_share(part.draws, full) for part in parts if part.draws is not None], axis=0)
    error = draws.std(axis=0)
    compared = full != np.arange(len(full))
    return TaskValues(
        objective=objective,
        value=shares,
        low=np.where(compared, shares - NORMAL * error, np.nan),
        high=np.where(compared, shares + NORMAL * error, np.nan),
        difference=np.where(compared, 100 - shares, np.nan),
        error=np.where(compared, error, np.nan),
    )


def _share(values: Numbers, full: Places) -> Numbers:
    of_full = np.where(full >= 0, values[..., full], np.nan)
    of_full = np.where(of_full > 0, of_full, np.nan)
    return np.asarray(100 * values / of_full)
