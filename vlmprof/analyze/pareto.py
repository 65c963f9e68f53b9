"""The Pareto front: the trials that no other trial of their group beats.

One trial dominates another when it is at least as good in every objective and better in one. Exact ties dominate
nobody, so all of them stay. A value that is not finite is refused: NaN compares as neither better nor worse, and would
sit on the front of one implementation and evict good points in another. ``fronts`` therefore gives trials that lack an
objective a front of what they did measure; ``pareto`` takes the objectives that it is given, and refuses such trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.objectives import FrontRows, Objective, finite, parse_objectives, split_by_objectives
from vlmprof.errors import UserError
from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.intervals import MeanInterval
from vlmprof.store.schema import column
from vlmprof.store.tables import schema_of

DOUBT = (
    column("front_membership", pa.string()),
    column("front_probability", pa.float64(), "probability"),
    column("front_rank", pa.float64()),
    column("tie_group", pa.int64()),
    column("epsilon_front", pa.bool_()),
    column("front_hypervolume", pa.float64(), "fraction", interval=True),
    column("front_hypervolume_low", pa.float64(), "fraction"),
    column("front_hypervolume_high", pa.float64(), "fraction"),
)
"""Columns of the rows of a front with its doubt, besides ``<objective>_band_low`` and ``_band_high`` of each objective;
``analyze.front_doubt`` fills them, and docs/decisions.md says what they mean."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontDoubt:
    """What is known about how sure a front is, besides the columns of its rows."""

    hypervolume: MeanInterval | None = None
    """Share of the box between the best and the worst measured values that the front dominates."""
    captions: tuple[str, ...] = ()
    """What the doubt rests on, to be said wherever it is shown."""
    caveats: tuple[str, ...] = ()
    """What could not be had, with numbers."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Front:
    """The front of comparable trials that measured the same objectives."""

    name: str
    """The group, and what was measured where the group has trials of several kinds."""
    objectives: tuple[Objective, ...]
    rows: pd.DataFrame
    """Its trials with ``group`` (the name above) and ``on_front``: by the objectives in turn, best first, then by id.
    ``attrs["mixed"]`` as of ``analyze.comparability``."""
    doubt: FrontDoubt | None = None
    """None where nobody asked for it; ``rows`` have the columns of ``DOUBT`` where it is known."""

    @property
    def best(self) -> pd.DataFrame:
        """The trials on the front."""
        return self.rows[self.rows["on_front"]]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontSet:
    """All fronts of a table, and what is on none."""

    fronts: tuple[Front, ...]
    """By name."""
    left_out: Mapping[str, int]
    """Why -> how many trials: their state, or the objectives that they lack."""

    @property
    def left_out_words(self) -> str:
        """Counts and reasons in one line; empty where nothing was left out."""
        return ", ".join(f"{count} {why}" for why, count in self.left_out.items())


def fronts(
    trials: pd.DataFrame,
    names: Sequence[str] = (),
    by: Sequence[str] = (),
    *,
    across_devices: bool = False,
    across_models: bool = False,
) -> FrontSet:
    """The front of each group, and within a group of each kind of trials; see ``analyze.objectives``.

    Args:
        trials: the ``trials`` table as ``store.tables.read`` gives it.
        names: objectives; by default quality and latency, as far as a trial measured them.
        by: columns to split groups by, besides those of ``analyze.comparability``.
        across_devices: one front over unlike devices; see ``analyze.comparability.comparable``.
        across_models: one front over several models; see ``analyze.comparability.comparable``.

    Returns:
        No front where no trial has finished.

    Raises:
        UserError: an unknown column, or no finished trial measured what a front needs.
    """
    frame = comparable(trials, by, across_devices=across_devices, across_models=across_models)
    return fronts_of(frame, names)


def fronts_of(frame: pd.DataFrame, names: Sequence[str] = ()) -> FrontSet:
    """The same, of trials that are in groups already.

    Args:
        frame: as ``analyze.comparability.comparable`` or ``groups`` gives it.
        names: as of ``fronts``.

    Raises:
        UserError: as ``fronts``.
    """
    if names:
        parse_objectives(names, schema_of(frame))
    left_out: Counter[str] = Counter(frame.attrs["left_out"])
    found: list[Front] = []
    for group, part in groups(frame):
        kinds, lacking = split_by_objectives(part, names)
        left_out.update(lacking)
        found += [_front_of(group, kind) for kind in kinds]
    if not found and not frame.empty:
        reasons = FrontSet(fronts=(), left_out=left_out).left_out_words
        counted = f"{len(frame)} finished trial{'s' if len(frame) > 1 else ''}"
        raise UserError(f"no front can be drawn of {counted}: {reasons}; choose other objectives")
    return FrontSet(fronts=tuple(sorted(found, key=lambda one: one.name)), left_out=dict(left_out))


def _front_of(group: str, kind: FrontRows) -> Front:
    measured = " and ".join(objective.column for objective in kind.objectives)
    named = kind.rows.assign(group=f"{group}, {measured} only" if kind.partial else group)
    named.attrs = kind.rows.attrs
    ((name, rows),) = groups(named)  # once more, for what differs among these trials
    return Front(name=name, objectives=kind.objectives, rows=_marked(rows, kind.objectives))


def front(values: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.bool_]:
    """Which rows of ``values`` (a row a trial, a column an objective) no other row dominates; ties all stay.

    O(n log n) for one, two and three objectives (``stats.fronts.non_dominated``).

    Raises:
        ValueError: the shape does not fit the objectives, or a value is not finite (the rows are named).
    """
    if values.ndim != 2 or values.shape[1] != len(objectives):
        raise ValueError(f"expected a column for each of {len(objectives)} objectives, got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(f"expected finite values, rows {bad.tolist()} have others")
    costs = values * np.array([objective.sign for objective in objectives], dtype=np.float64)
    return non_dominated(costs)


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
    _require_finite(frame, [objective.column for objective in objectives])
    return _marked(frame, objectives)


def _marked(frame: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """With ``on_front``, in order; ``attrs`` are kept."""
    columns, attrs = [objective.column for objective in objectives], frame.attrs
    frame["on_front"] = False
    for _, part in frame.groupby("group"):
        frame.loc[part.index, "on_front"] = front(part[columns].to_numpy(dtype=np.float64), objectives)
    rising = [objective.better == "lower" for objective in objectives]
    frame = frame.sort_values(["group", *columns, "trial"], ascending=[True, *rising, True], ignore_index=True)
    frame.attrs = attrs
    return frame


def _require_finite(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    faults = []
    for name in columns:
        lacking = frame["trial"][~finite(frame, name)].tolist()
        if lacking:
            faults.append(f"{name} is missing or not finite in {len(lacking)} of {len(frame)}: {', '.join(lacking)}")
    if faults:
        measured = "a front needs trials that measured all objectives; choose others or keep these trials elsewhere"
        raise UserError(f"{'; '.join(faults)} ({measured})")


def _unit_of(schema: pa.Schema, name: str) -> str:
    unit: bytes = (schema.field(name).metadata or {}).get(b"unit", b"")
    return unit.decode()


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame of ``pareto`` as a table that keeps units and directions, ready for Parquet.

    ``DataFrame.to_parquet`` would drop the metadata of the fields, and cannot write ``attrs``.
    """
    schema: pa.Schema = schema_of(frame)
    band = [name for name in frame.columns if str(name).endswith(("_band_low", "_band_high"))]
    extra = [column("group", pa.string()), column("on_front", pa.bool_())]
    extra += [one for one in DOUBT if one.name in frame]
    extra += [column(name, pa.float64(), _unit_of(schema, name.rsplit("_band_", 1)[0])) for name in band]
    plain = frame.copy(deep=False)
    plain.attrs = {}
    return pa.Table.from_pandas(plain, schema=pa.schema([*extra, *schema], schema.metadata), preserve_index=False)
