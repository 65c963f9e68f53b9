"""Decides the objectives of each front, for the tables, the figures and the watch page alike.

If no objectives are named, a front trades quality off against latency. A folder may hold trials that measured both,
only quality or only latency. Each of these kinds has its own front, because trials cannot be compared in an objective
that one of them lacks. Trials that measured neither are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof.errors import UserError, suggestion
from vlmprof.store.schema import Better
from vlmprof.store.tables import schema_of

QUALITY, LATENCY = "accuracy", "latency_ms_p50"
"""Default objectives; ``score`` replaces the first for a metric that has no accuracy."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A column of ``trials`` to maximise or minimise."""

    column: str
    better: Better
    unit: str = ""

    @property
    def sign(self) -> Literal[1, -1]:
        """Factor by which to multiply the values so that lower is better."""
        return 1 if self.better == "lower" else -1


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontRows:
    """Trials of one group that measured the same objectives."""

    objectives: tuple[Objective, ...]
    rows: pd.DataFrame
    """In the order of the input table, with its ``attrs``."""
    partial: bool
    """Whether the group has several fronts and this one lacks an objective, so its title must name its objectives."""


def parse_objectives(names: Sequence[str], schema: pa.Schema) -> list[Objective]:
    """The objectives with these column names; direction and unit come from the metadata of the Arrow fields.

    Raises:
        UserError: no names, a repeated name, a column that does not exist, or a column without a direction.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected at least one objective, none repeated, got {', '.join(names) or 'none'}")
    return [_objective(name, schema) for name in names]


def quality_column(trials: pd.DataFrame) -> str:
    """``accuracy``, or ``score`` if the metric of a finished trial is not a mean over samples, such as CIDEr-D or F1.

    ``trials`` must be one group of comparable trials, so that all have the same metric.
    """
    done = trials[trials["state"] == "done"]
    return "score" if (done["score"].notna() & done["accuracy"].isna()).any() else QUALITY


def default_columns(trials: pd.DataFrame) -> tuple[str, str]:
    """The default objectives: the column of quality, then the column of latency."""
    return quality_column(trials), LATENCY


def measured_objectives(trials: pd.DataFrame, names: Sequence[str]) -> list[Objective]:
    """The named objectives that at least one trial measured; ``accuracy`` is replaced by the quality column.

    Raises:
        UserError: as ``parse_objectives``, except that the result may be empty.
    """
    wanted = [quality_column(trials) if name == QUALITY else name for name in names]
    measured = [name for name in wanted if finite(trials, name).any()]
    return parse_objectives(measured, schema_of(trials)) if measured else []


def split_by_objectives(
    part: pd.DataFrame, names: Sequence[str] = ()
) -> tuple[tuple[FrontRows, ...], Mapping[str, int]]:
    """Split one group of finished trials into the fronts to compute, and count the trials that are left out.

    Args:
        part: A group, as ``analyze.comparability.groups`` yields it.
        names: Objectives named by the user: the result is then a single front of the trials that measured all of them.

    Returns:
        The rows of each front, those with most objectives first; and reason -> number of trials left out.

    Raises:
        UserError: as ``parse_objectives``.
    """
    wanted = parse_objectives(names or default_columns(part), schema_of(part))
    columns = [objective.column for objective in wanted]
    measured = np.column_stack([finite(part, name) for name in columns])
    left_out: Counter[str] = Counter()
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for position, has in enumerate(measured):
        if has.all() or (has.any() and not names):
            kinds.setdefault(tuple(map(bool, has)), []).append(position)
        else:
            lacking = [name for name, present in zip(columns, has, strict=True) if not present]
            left_out[f"without {' and '.join(lacking)}"] += 1
    fronts = [
        FrontRows(
            objectives=tuple(objective for objective, present in zip(wanted, kind, strict=True) if present),
            rows=_rows(part, kinds[kind]),
            partial=not all(kind) and len(kinds) > 1,
        )
        for kind in sorted(kinds, key=lambda kind: (-sum(kind), [not present for present in kind]))
    ]
    return tuple(fronts), dict(left_out)


def finite(trials: pd.DataFrame, name: str) -> Any:
    """Which trials have a finite value in a column; missing, NaN and infinite values count as not measured.

    Returns:
        A boolean array of shape (trials,).
    """
    return np.isfinite(trials[name].to_numpy(dtype=np.float64, na_value=np.nan))


def _rows(part: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    rows = part.iloc[list(positions)].reset_index(drop=True)
    rows.attrs = dict(part.attrs)
    return rows


def _objective(name: str, schema: pa.Schema) -> Objective:
    directed = [field.name for field in schema if _metadata(field).get("better")]
    if name not in directed:
        problem = f"'{name}' has no better direction" if name in schema.names else f"no objective named '{name}'"
        raise UserError(f"{problem}{suggestion(name, directed)}")
    metadata = _metadata(schema.field(name))
    return Objective(column=name, better=cast(Better, metadata["better"]), unit=metadata.get("unit", ""))


def _metadata(field: pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
