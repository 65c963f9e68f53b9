"""The Pareto front: the trials that no other trial of their group beats.

One trial dominates another when it is at least as good in every objective and better in one. Exact ties dominate
nobody, so all of them stay. A value that is not finite is refused: NaN compares as neither better nor worse, and would
sit on the front of one implementation and evict good points in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.comparability import comparable
from vlmprof.errors import UserError, suggestion
from vlmprof.store.schema import Better, column

DEFAULT_OBJECTIVES = ("accuracy", "latency_ms_p50")
"""``accuracy`` gives way to ``score`` where a trial has only that, see ``quality_column``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One column of ``trials`` to make as high or as low as can be."""

    column: str
    better: Better
    unit: str = ""

    @property
    def sign(self) -> Literal[1, -1]:
        """Factor that makes lower better."""
        return 1 if self.better == "lower" else -1


def quality_column(trials: pd.DataFrame) -> str:
    """``accuracy``; ``score`` where a finished trial's metric is no mean over samples, such as CIDEr-D or F1.

    Values of two metrics are never compared by it: the metric is part of a group's identity.
    """
    done = trials[trials["state"] == "done"]
    return "score" if (done["score"].notna() & done["accuracy"].isna()).any() else "accuracy"


def parse_objectives(names: Sequence[str], schema: pa.Schema) -> list[Objective]:
    """The objectives by these column names; direction and unit come from the field metadata.

    Raises:
        UserError: no names, a name twice, a column that does not exist, or one that has no better direction.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected objectives, each once, got {', '.join(names) or 'none'}")
    return [_objective(name, schema) for name in names]


def _objective(name: str, schema: pa.Schema) -> Objective:
    directed = [field.name for field in schema if _metadata(field).get("better")]
    if name not in directed:
        problem = f"'{name}' has no better direction" if name in schema.names else f"no objective named '{name}'"
        raise UserError(f"{problem}{suggestion(name, directed)}")
    metadata = _metadata(schema.field(name))
    return Objective(column=name, better=cast(Better, metadata["better"]), unit=metadata.get("unit", ""))


def _metadata(field: pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}


def front(values: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.bool_]:
    """Which rows of ``values`` (a row a trial, a column an objective) no other row dominates; ties all stay.

    O(n log n) for one or two objectives, O(n^2) for more.

    Raises:
        ValueError: the shape does not fit the objectives, or a value is not finite (the rows are named).
    """
    if values.ndim != 2 or values.shape[1] != len(objectives):
        raise ValueError(f"expected a column for each of {len(objectives)} objectives, got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(f"expected finite values, rows {bad.tolist()} have others")
    costs = values * np.array([objective.sign for objective in objectives], dtype=np.float64)
    if costs.shape[1] == 1:
        costs = np.column_stack([costs, np.zeros(len(costs))])
    return _sweep(costs) if costs.shape[1] == 2 else _plain(costs)


def _sweep(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Two costs: walk along the first; a row stays if it is the best of its equals and beats all before them."""
    if not len(costs):
        return np.zeros(0, dtype=np.bool_)
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order].T
    starts = np.flatnonzero(np.concatenate([[True], first[1:] != first[:-1]]))
    best = second[starts]  # of each run of equal first costs
    before = np.concatenate([[np.inf], np.minimum.accumulate(best)[:-1]])
    run = np.cumsum(np.isin(np.arange(len(first)), starts)) - 1
    stays = np.zeros(len(costs), dtype=np.bool_)
    stays[order] = (second == best[run]) & (second < before[run])
    return stays


def _plain(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    dominated = [((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any() for row in costs]
    return ~np.array(dominated, dtype=np.bool_)


def pareto(
    trials: pd.DataFrame, objectives: Sequence[Objective], by: Sequence[str] = (), *, across_devices: bool = False
) -> pd.DataFrame:
    """The finished trials with ``group`` and ``on_front``; each group has a front of its own.

    Args:
        trials: the ``trials`` table as ``store.tables.read`` gives it.
        objectives: what to trade off.
        by: columns to split groups by, besides those of ``analyze.comparability``.
        across_devices: one front over unlike devices; see ``analyze.comparability.comparable``.

    Returns:
        The rows by group, then by the objectives in turn, best first, then by trial id. ``attrs`` as of
        ``analyze.comparability.comparable``: ``left_out`` counts the trials that are not done, by state.

    Raises:
        UserError: an unknown column in ``by``, or finished trials that lack an objective (they are named).
    """
    frame = comparable(trials, by, across_devices=across_devices)
    columns = [objective.column for objective in objectives]
    _require_finite(frame, columns)
    frame["on_front"] = False
    for _, part in frame.groupby("group"):
        frame.loc[part.index, "on_front"] = front(part[columns].to_numpy(dtype=np.float64), objectives)
    rising = [objective.better == "lower" for objective in objectives]
    attrs = frame.attrs
    frame = frame.sort_values(["group", *columns, "trial"], ascending=[True, *rising, True], ignore_index=True)
    frame.attrs = attrs
    return frame


def _require_finite(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    faults = []
    for name in columns:
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        lacking = frame["trial"][~np.isfinite(values)].tolist()
        if lacking:
            faults.append(f"{name} is missing or not finite in {len(lacking)} of {len(frame)}: {', '.join(lacking)}")
    if faults:
        measured = "a front needs trials that measured all objectives; choose others or keep these trials elsewhere"
        raise UserError(f"{'; '.join(faults)} ({measured})")


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame of ``pareto`` as a table that keeps units and directions, ready for Parquet.

    ``DataFrame.to_parquet`` would drop the metadata of the fields, and cannot write ``attrs``.
    """
    schema: pa.Schema = frame.attrs["schema"]
    extra = [column("group", pa.string()), column("on_front", pa.bool_())]
    plain = pd.DataFrame(frame.to_dict("list"))
    return pa.Table.from_pandas(plain, schema=pa.schema([*extra, *schema], schema.metadata), preserve_index=False)
