"""Look-up tables of an adaptive controller: for each budget the configuration to run, and how often it is exceeded.

A controller that is told what a request may cost looks up the configuration of the best accuracy whose median keeps the
budget. A median says little about one request, so the table has the violation rate too: the share of the samples whose
predicted latency is above the budget and its tolerance. Accuracy is chosen for, in every row, so beside the measured
value stands what is left of it after the correction for that (``stats.selection``).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.choosing.contests import GroupContest, group_contest, split_measured
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.conditions import Bound
from vlmprof.analyze.drawn_objectives import SweepReader
from vlmprof.analyze.objectives import Objective, parse_objectives, quality_column
from vlmprof.errors import StoreError, UserError
from vlmprof.stats.selection import NOBODY, chances
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.schema import STAGES, column
from vlmprof.store.tables import schema_of

COST_OF_STAGE: Mapping[str, str] = {"prefill": "prefill_ms_p50", "whole": "latency_ms_p50"}
PREDICTED: Mapping[str, tuple[str, ...]] = {
    "latency_ms_p50": ("latency_ms_predicted",),
    "e2e_ms_p50": tuple(f"{stage}_ms_predicted" for stage in STAGES if stage != "preprocess"),
    "ttft_ms_p50": tuple(f"{stage}_ms_predicted" for stage in ("transfer", "vision", "connector", "prefill")),
    **{f"{stage}_ms_p50": (f"{stage}_ms_predicted",) for stage in STAGES},
}
"""Column of ``trials`` -> the columns of ``samples`` that add up to it for one request."""
STEPS, MOST_STEPS = 10, 1000
TOLERANCE = 0.05
MEANINGS: Mapping[str, str] = {
    "group": "Name of the group of comparable trials: equal in model, data, device and timing.",
    "budget": "What a request may cost, in the unit of the column that is bounded.",
    "trial": "The configuration of the best accuracy whose cost is at most the budget, as measured; null if none is.",
    "point": "Its knobs and their values.",
    "quality": "Its accuracy, or the score of a metric that has none.",
    "quality_low": "Lower end of its 95 % interval, as if it had not been chosen.",
    "quality_high": "Upper end of that interval.",
    "quality_corrected": "The same less what being chosen is expected to have added.",
    "quality_corrected_low": "Lower end of its 95 % interval.",
    "quality_corrected_high": "Upper end of its 95 % interval.",
    "cost": "Its value of the column that is bounded.",
    "cost_low": "Lower end of its 95 % interval; null where the column has none.",
    "cost_high": "Upper end of its 95 % interval.",
    "probability_feasible": "Share of draws of the cost that are at most the budget.",
    "violation_rate": "Share of the samples whose predicted cost is above the budget and its tolerance.",
    "samples_predicted": "Samples that have such a prediction; null where the column has none.",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetsWanted:
    """What a user asks for."""

    objective: str = ""
    """The column that is bounded; empty: that of the stage."""
    stage: str = "whole"
    """``prefill`` or ``whole``."""
    low: float | None = None
    """The first budget; None: the least cost of any configuration."""
    high: float | None = None
    """The last budget; None: the largest cost."""
    step: float | None = None
    """From one budget to the next; None: ``steps`` decides."""
    steps: int = STEPS
    tolerance: float = TOLERANCE
    """By which share of the budget a request may exceed it without counting."""
    by: tuple[str, ...] = ()
    across_models: bool = False

    def __post_init__(self) -> None:
        if self.stage not in COST_OF_STAGE:
            raise UserError(f"stage: expected {' or '.join(COST_OF_STAGE)}, got '{self.stage}'")
        if self.objective and self.stage != "whole":
            raise UserError(
                f"stage: '{self.stage}' is bounded by {COST_OF_STAGE[self.stage]}; leave out '{self.objective}'"
            )
        if not 2 <= self.steps <= MOST_STEPS:
            raise UserError(f"steps: expected 2 to {MOST_STEPS}, got {self.steps}")
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name}: expected a number above 0, got {value:g}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise UserError(f"tolerance: expected 0 or more, got {self.tolerance:g}")

    @property
    def cost(self) -> str:
        """The column that is bounded."""
        return self.objective or COST_OF_STAGE[self.stage]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBudgets:
    """The look-up table of one group of comparable trials."""

    group: str
    quality: Objective
    cost: Objective
    rows: pd.DataFrame
    """A row for each budget, rising: the columns of ``MEANINGS``."""
    captions: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Budgets:
    """The look-up tables of a folder."""

    wanted: BudgetsWanted
    tables: tuple[GroupBudgets, ...]
    """By name of the group."""
    left_out: Mapping[str, int]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of all groups; ``attrs`` have ``units`` and ``descriptions``."""
        frame = pd.concat([one.rows for one in self.tables], ignore_index=True)
        cost, quality = self.tables[0].cost, self.tables[0].quality
        units = {name: cost.unit for name in frame if name == "budget" or str(name).startswith("cost")}
        units |= {name: quality.unit for name in frame if str(name).startswith("quality")}
        units |= {"violation_rate": "fraction", "probability_feasible": "probability", "samples_predicted": "samples"}
        frame.attrs = {"units": units, "descriptions": dict(MEANINGS)}
        return frame


def budgets(folder: Where, wanted: BudgetsWanted | None = None) -> Budgets:
    """The look-up table of each group of comparable trials.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: an unknown column, one of which more is better, or no finished trial that measured it.
    """
    wanted = wanted or BudgetsWanted()
    trials = tables.read(folder, "trials")
    schema = schema_of(trials)
    (cost,) = parse_objectives([wanted.cost], schema)
    if cost.better != "lower":
        raise UserError(f"'{cost.column}' is no cost: of it {cost.better} is better; choose a time, memory or energy")
    frame = comparable(trials, wanted.by, across_models=wanted.across_models)
    reader, left_out = SweepReader(folder=folder), Counter(frame.attrs["left_out"])
    predicted = _predictions(folder, cost.column)
    found = []
    for name, part in groups(frame):
        (quality,) = parse_objectives([quality_column(part)], schema)
        rows, lacking = split_measured(part, [quality.column, cost.column])
        left_out.update(lacking)
        if len(rows):
            # The condition's number stands in for every budget: the columns that it names are what is drawn.
            bound = Bound(column=cost.column, operator="<=", value=math.inf)
            found.append(_table(name, group_contest(rows, quality, bound, schema, reader), cost, predicted, wanted))
    if not found:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise UserError(f"no budgets: no finished trial measured quality and {cost.column} ({reasons or 'no trials'})")
    return Budgets(wanted=wanted, tables=tuple(found), left_out=dict(left_out))


def _table(
    name: str, contest: GroupContest, cost: Objective, predicted: pd.DataFrame | None, wanted: BudgetsWanted
) -> GroupBudgets:
    limits = _limits(contest.rows[cost.column].to_numpy(dtype=np.float64), wanted)
    rows = [_row(_bounded(contest, cost.column, limit), cost, limit) for limit in limits]
    frame = pd.DataFrame([{"group": name, **row} for row in rows], columns=list(MEANINGS))
    caveats = list(contest.told.caveats)
    if predicted is None:
        caveats.append(f"no violation rate: {cost.column} is not predicted for each sample")
    else:
        of_trials = {str(trial): part["cost"].to_numpy() for trial, part in predicted.groupby("trial")}
        for i, row in frame[frame["trial"].notna()].iterrows():
            costs = of_trials.get(str(row["trial"]), np.zeros(0))
            frame.loc[[i], "samples_predicted"] = len(costs)
            if len(costs):
                frame.loc[[i], "violation_rate"] = float((costs > row["budget"] * (1 + wanted.tolerance)).mean())
        caveats += _unpredicted(frame)
    return GroupBudgets(
        group=name,
        quality=contest.objective,
        cost=cost,
        rows=frame,
        captions=tuple(dict.fromkeys(contest.told.captions)),
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _unpredicted(frame: pd.DataFrame) -> Iterator[str]:
    chosen = frame[frame["trial"].notna()].drop_duplicates("trial")
    without = int((chosen["samples_predicted"] == 0).sum())
    if without:
        yield f"no violation rate for {without} of {len(chosen)} configurations: their samples have no prediction"


def _limits(costs: NDArray[np.float64], wanted: BudgetsWanted) -> list[float]:
    low = wanted.low if wanted.low is not None else float(costs.min())
    high = wanted.high if wanted.high is not None else float(costs.max())
    if high < low:
        raise UserError(f"budgets: expected the last to be at least the first, got {low:g} to {high:g}")
    if wanted.step is None:
        return [float(limit) for limit in np.linspace(low, high, wanted.steps if high > low else 1)]
    count = math.floor((high - low) / wanted.step * (1 + 1e-9)) + 1
    if count > MOST_STEPS:
        raise UserError(f"step: expected at most {MOST_STEPS} budgets, a step of {wanted.step:g} gives {count:,}")
    return [low + i * wanted.step for i in range(count)]


def _bounded(contest: GroupContest, name: str, limit: float) -> GroupContest:
    """The same contest within a budget."""

    def allowed(costs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
        return np.asarray(contest.values(name, costs[name]) <= limit)

    return replace(contest, contest=replace(contest.contest, allowed=allowed))


def _row(contest: GroupContest, cost: Objective, limit: float) -> dict[str, Any]:
    one = contest.contest
    winner = int(one.winner(one.measured))
    if winner == NOBODY:
        return {"budget": limit}
    row, quality = contest.rows.iloc[winner], contest.objective.column
    found: dict[str, Any] = {"budget": limit, "trial": row["trial"], "point": row["point"]}
    for to, name in (("quality", quality), ("cost", cost.column)):
        found |= {f"{to}{end}": row.get(f"{name}{end}", np.nan) for end in ("", "_low", "_high")}
    if contest.is_drawn:
        corrected = contest.corrected(winner)
        ends = (("", corrected.mean), ("_low", corrected.low), ("_high", corrected.high))
        found |= {f"quality_corrected{end}": value for end, value in ends}
        found["probability_feasible"] = float(chances(one).feasible[winner])
    return found


def _predictions(folder: Where, name: str) -> pd.DataFrame | None:
    """Trial and predicted cost of each sample that has one; None for a column that is not predicted."""
    parts = PREDICTED.get(name)
    if parts is None:
        return None
    rows: pd.DataFrame = tables.read_columns(folder, "samples", ("trial", *parts)).to_pandas()
    costs = rows[list(parts)].sum(axis=1, min_count=1)  # a stage that a model lacks is null
    return pd.DataFrame({"trial": rows["trial"], "cost": costs}).dropna()


def to_arrow(found: Budgets) -> pa.Table:
    """All rows as a table whose fields have their units."""
    frame, units = found.frame, found.frame.attrs["units"]
    kinds = {"group": pa.string(), "trial": pa.string(), "point": pa.string(), "samples_predicted": pa.int64()}
    fields = [column(name, kinds.get(name, pa.float64()), units.get(name, "")) for name in MEANINGS]
    records = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    return pa.Table.from_pylist(records, schema=pa.schema(fields))


def write_budgets(found: Budgets, folder: Where, name: str = "budgets") -> Sequence[str]:
    """Write ``<name>.parquet`` and ``<name>.json`` into the folder, each whole or not at all; returns their addresses.

    The JSON file has what was asked for, the columns with their units and meanings, and the rows.

    Raises:
        StoreError: a file cannot be written.
    """
    place, table = results_folder(folder), to_arrow(found)
    text = json.dumps(
        {
            "cost": found.wanted.cost,
            "tolerance": found.wanted.tolerance,
            "quality": sorted({one.quality.column for one in found.tables}),
            "units": found.frame.attrs["units"],
            "descriptions": dict(MEANINGS),
            "budgets": table.to_pylist(),
        },
        indent=1,
        allow_nan=False,
    )
    contents = {f"{name}.parquet": tables.parquet_bytes(table), f"{name}.json": pa.py_buffer(text.encode())}
    for file, data in contents.items():
        try:
            place.write(file, data)
        except OSError as error:
            raise StoreError(f"{place.address(file)} cannot be written: {error.strerror or error}") from None
    return [place.address(file) for file in contents]
