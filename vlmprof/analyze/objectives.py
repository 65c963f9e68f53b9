"""Which objectives the front of each trial has: the one place that decides it, for tables, figures and the watch page.

Unless objectives are named, a front trades quality off against latency. A folder may hold trials of several kinds:
such as measured both, quality alone or latency alone. Each kind has a front of its own, because a trial that lacks an
objective can neither beat another in it nor be beaten. Trials that measured neither are left out and counted.
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

QUALITY, LATENCY = "accuracy", "latency_ms_p50"
"""What is traded off by default; the first gives way to ``score`` where a metric has no accuracy."""


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


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontRows:
    """Trials of one group that measured the same objectives."""

    objectives: tuple[Objective, ...]
    rows: pd.DataFrame
    """In the order in which they were given, with the attributes of that table."""
    partial: bool
    """Whether other trials of the group have another front, so that this one must be named by its objectives."""


def parse_objectives(names: Sequence[str], schema: pa.Schema) -> list[Objective]:
    """The objectives by these column names; direction and unit come from the field metadata.

    Raises:
        UserError: no names, a name twice, a column that does not exist, or one that has no better direction.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected objectives, each once, got {', '.join(names) or 'none'}")
    return [_objective(name, schema) for name in names]


def quality_column(trials: pd.DataFrame) -> str:
    """``accuracy``; ``score`` where a finished trial's metric is no mean over samples, such as CIDEr-D or F1.

    Ask it about one group of comparable trials: the metric is part of a group's identity.
    """
    done = trials[trials["state"] == "done"]
    return "score" if (done["score"].notna() & done["accuracy"].isna()).any() else QUALITY


def default_columns(trials: pd.DataFrame) -> tuple[str, str]:
    """What is traded off where nobody named objectives: the column of quality, then that of latency."""
    return quality_column(trials), LATENCY


def measured_objectives(trials: pd.DataFrame, names: Sequence[str]) -> list[Objective]:
    """Those of these objectives that at least one of the trials measured; ``accuracy`` stands for the quality column.

    Raises:
        UserError: as ``parse_objectives``; not where none was measured.
    """
    wanted = [quality_column(trials) if name == QUALITY else name for name in names]
    measured = [name for name in wanted if finite(trials, name).any()]
    return parse_objectives(measured, trials.attrs["schema"]) if measured else []


def split_by_objectives(
    part: pd.DataFrame, names: Sequence[str] = ()
) -> tuple[tuple[FrontRows, ...], Mapping[str, int]]:
    """The fronts to make of one group of finished trials, and what is left out of all of them.

    Args:
        part: A group, as ``analyze.comparability.groups`` gives it.
        names: Objectives that were asked for: there is one front then, of the trials that measured all of them.

    Returns:
        The kinds of trials, those with most objectives first, and why others were left out -> how many.

    Raises:
        UserError: as ``parse_objectives``.
    """
    wanted = parse_objectives(names or default_columns(part), part.attrs["schema"])
    columns = [objective.column for objective in wanted]
    has = np.column_stack([finite(part, name) for name in columns])
    left_out: Counter[str] = Counter()
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for place, row in enumerate(has):
        if row.all() or (row.any() and not names):
            kinds.setdefault(tuple(map(bool, row)), []).append(place)
        else:
            lacking = [name for name, there in zip(columns, row, strict=True) if not there]
            left_out[f"without {' and '.join(lacking)}"] += 1
    found = [
        FrontRows(
            objectives=tuple(one for one, there in zip(wanted, kind, strict=True) if there),
            rows=_rows(part, kinds[kind]),
            partial=not all(kind) and len(kinds) > 1,
        )
        for kind in sorted(kinds, key=lambda kind: (-sum(kind), [not there for there in kind]))
    ]
    return tuple(found), dict(left_out)


def finite(trials: pd.DataFrame, name: str) -> Any:
    """Which trials have a finite number in a column: a value that is missing, NaN or infinite was not measured.

    Returns:
        An array of booleans, a trial each.
    """
    return np.isfinite(trials[name].to_numpy(dtype=np.float64, na_value=np.nan))


def _rows(part: pd.DataFrame, places: Sequence[int]) -> pd.DataFrame:
    rows = part.iloc[list(places)].reset_index(drop=True)
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
