"""Contests between the configurations of one group: costs and draws from the tables, conditions on their values.

``stats.selection`` chooses by costs, of which less is better and which are logarithms where differences are ratios.
Users name columns, and conditions are on values in the columns' units. This module goes from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.comparability import MOST_TOGETHER
from vlmprof.analyze.conditions import Bound, Condition, columns_of, holds, shortfall
from vlmprof.analyze.drawn_objectives import (
    OF_TIME,
    SweepReader,
    Told,
    cost_of,
    drawn_objective,
    is_by_ratio,
    is_of_samples,
    values_of,
)
from vlmprof.analyze.objectives import Objective, finite
from vlmprof.errors import UserError
from vlmprof.stats.intervals import Interval, MeanInterval
from vlmprof.stats.resampling import DRAWS
from vlmprof.stats.selection import Contest, corrected, difference
from vlmprof.stats.uncertain_front import DrawnObjective
from vlmprof.store.schema import Better

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupContest:
    """The configurations of one group that measured the objective and all columns of the condition."""

    rows: pd.DataFrame
    objective: Objective
    condition: Condition | None
    columns: Mapping[str, Objective]
    """All columns that the choice depends on, the objective among them."""
    contest: Contest
    is_drawn: bool
    """Whether the draws are known; else they are the measured values, and ``told`` says why."""
    told: Told = field(default_factory=Told)

    def values(self, column: str, costs: Numbers) -> Numbers:
        """Costs of a column as values in its unit; the last axis is the configurations."""
        return _values(self.rows, self.columns[column], self.contest.columns[column].costs, costs)

    def missed(self) -> Numbers:
        """(configurations,): by how much each misses the condition as measured, as a share of its numbers."""
        if self.condition is None:
            return np.zeros(len(self.rows))
        measured = self.contest.measured
        return shortfall(self.condition, lambda one: self.values(one.column, measured[one.column]))

    @property
    def is_by_ratio(self) -> bool:
        """Whether differences of the objective are given as shares."""
        return is_by_ratio(self.rows, self.objective)

    def differences(self, than: int) -> tuple[Numbers, Numbers, Numbers]:
        """The objective of each configuration less that of one, low and high; shares where ``is_by_ratio``."""
        middle, low, high = difference(self.contest.columns[self.objective.column], than)
        sign = self.objective.sign
        ends = (low, high) if sign == 1 else (high, low)
        as_values = [sign * costs + 0.0 for costs in (middle, *ends)]  # + 0.0: no minus before a 0
        return cast(
            tuple[Numbers, Numbers, Numbers],
            tuple(np.expm1(values) if self.is_by_ratio else values for values in as_values),
        )

    def corrected(self, winner: int) -> MeanInterval:
        """The winner's objective in its unit less what being chosen made of it, with its interval."""
        found = corrected(self.contest, winner, self._own_interval(winner))
        ends = values_of(self.rows, self.objective, np.array([found.mean, found.low, found.high]))
        return MeanInterval(mean=float(ends[0]), low=float(min(ends)), high=float(max(ends)))

    def _own_interval(self, trial: int) -> Interval | None:
        """The interval in ``trials`` of a mean of scores, as costs: near 0 and 1 it is better than that of draws.

        The interval of a time leaves out what one process differs from another by, which the draws have.
        """
        name = self.objective.column
        ends = [self.rows[f"{name}_{end}"].iloc[trial] for end in ("low", "high") if f"{name}_{end}" in self.rows]
        if name not in self.of_scores or len(ends) < 2 or any(pd.isna(end) for end in ends):
            return None
        low, high = sorted(self.objective.sign * float(end) for end in ends)
        return Interval(low=low, high=high)

    @property
    def of_scores(self) -> list[str]:
        """The columns that are means of the scores in ``samples``."""
        return [name for name in self.columns if is_of_samples(self.rows, name)]


def split_measured(part: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """The trials that measured all columns, and reason -> how many did not."""
    left_out: dict[str, int] = {}
    kept = np.ones(len(part), dtype=bool)
    for name in columns:
        lacking = kept & ~finite(part, name)
        if lacking.any():
            left_out[f"without {name}"] = int(lacking.sum())
        kept &= ~lacking
    rows = part[kept].reset_index(drop=True)
    rows.attrs = dict(part.attrs)
    return rows, left_out


def any_column(name: str, schema: pa.Schema) -> Objective:
    """A column as an objective; lower is better where the schema gives it no direction."""
    metadata = {key.decode(): text.decode() for key, text in (schema.field(name).metadata or {}).items()}
    better = cast(Better, metadata.get("better", "lower"))
    return Objective(column=name, better=better, unit=metadata.get("unit", ""))


def group_contest(
    rows: pd.DataFrame, objective: Objective, condition: Condition | None, schema: pa.Schema, reader: SweepReader
) -> GroupContest:
    """The contest of these trials.

    Args:
        rows: trials of one group that all measured what is named.
        objective: what is best.
        condition: what is allowed; None: everything.
        schema: of ``trials``.
        reader: of their folder.
    """
    named = () if condition is None else columns_of(condition)
    columns = {objective.column: objective}
    columns |= {name: any_column(name, schema) for name in named if name not in columns}
    told = Told()
    drawn, is_drawn = _drawn(rows, columns, reader, told)

    def allowed(costs: Mapping[str, Numbers]) -> Mask:
        if condition is None:
            return np.ones(costs[objective.column].shape, dtype=np.bool_)

        def values(one: Bound) -> Numbers:
            return _values(rows, columns[one.column], drawn[one.column].costs, costs[one.column])

        return holds(condition, values)

    contest = Contest(columns=drawn, objective=objective.column, allowed=allowed)
    return GroupContest(
        rows=rows,
        objective=objective,
        condition=condition,
        columns=columns,
        contest=contest,
        is_drawn=is_drawn,
        told=told,
    )


def _values(rows: pd.DataFrame, objective: Objective, measured: Numbers, costs: Numbers) -> Numbers:
    """Costs as values; those of the measured costs are the measured values to the last digit.

    The exponential of a logarithm may differ from the number in its last digit, and ``latency_ms_p50 <= 20`` would not
    hold for 20.
    """
    exact = rows[objective.column].to_numpy(dtype=np.float64)
    return np.where(costs == measured, exact, values_of(rows, objective, costs))


def _drawn(
    rows: pd.DataFrame, columns: Mapping[str, Objective], reader: SweepReader, told: Told
) -> tuple[dict[str, DrawnObjective], bool]:
    if len(rows) > MOST_TOGETHER:
        told.caveats.append(
            f"no probabilities are given for {len(rows)} configurations in one group, only up to {MOST_TOGETHER}"
        )
        return _as_measured(rows, columns), False
    try:
        drawn = {
            # Means of scores are drawn from the same pictures, under whatever name.
            name: drawn_objective(rows, one, 0 if is_of_samples(rows, name) else i, reader, told)
            for i, (name, one) in enumerate(columns.items(), start=1)
        }
    except UserError as error:
        told.caveats.append(f"no probabilities are given: {error}")
        return _as_measured(rows, columns), False
    times = [name for name, one in columns.items() if one.unit in OF_TIME]
    if len(times) > 1:
        told.captions.append(f"{' and '.join(times)} are drawn independently of each other")
    return drawn, True


def _as_measured(rows: pd.DataFrame, columns: Mapping[str, Objective]) -> dict[str, DrawnObjective]:
    costs = {name: cost_of(rows, one) for name, one in columns.items()}
    nothing = np.broadcast_to(0.0, (len(rows), len(rows)))  # without memory for every pair
    return {
        name: DrawnObjective(costs=one, draws=np.broadcast_to(one, (DRAWS, len(one))), errors=nothing)
        for name, one in costs.items()
    }
