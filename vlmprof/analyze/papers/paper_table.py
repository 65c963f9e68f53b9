"""Tables for papers: configurations by tasks, with intervals, what is told apart from the full model, and a caption.

The values of a row are those of one configuration: quality on each task, the mean share of the full model's quality,
and what it costs, as the mean over the tasks. Each value has its 95 % interval where it was measured with an error. A
row is told apart from the full model where their paired difference is not 0 at 95 % after Holm's adjustment over the
rows of the column. ``report.paper_table`` writes them as LaTeX, Markdown, HTML and CSV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof.analyze.choosing.contests import any_column
from vlmprof.analyze.comparability import comparable, machine
from vlmprof.analyze.drawn_objectives import SweepReader
from vlmprof.analyze.objectives import Objective, finite, quality_column
from vlmprof.analyze.papers.paper_blocks import FRONT, Block, Key, blocks, chosen_rows
from vlmprof.analyze.papers.paper_values import WORK, Shown, TaskValues, over_tasks, relative_to_full, task_values
from vlmprof.errors import UserError, suggestion
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.tables import schema_of

QUALITY, RELATIVE = "accuracy", "relative"
COLUMNS: Mapping[str, tuple[str, str]] = {
    QUALITY: ("", ""),
    RELATIVE: ("", "% of full"),
    "vision_tokens": ("vision_tokens", "vision tokens"),
    WORK: (WORK, "operations"),
    "prefill": ("prefill_ms_p50", "prefill"),
    "total": ("latency_ms_p50", "total"),
    "memory": ("peak_bytes", "memory"),
}
"""What may be named for a column -> its column of ``trials`` and its header; any other column of ``trials`` may too."""
_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_VERSIONS = ("vlmprof", "torch", "transformers", "cuda")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TableWanted:
    """What a user asks for."""

    rows: str = FRONT
    """``front`` (with the full model), ``all``, or a list of ``full``, ``front``, ids and settings."""
    columns: tuple[str, ...] = ()
    """Of ``COLUMNS`` or of ``trials``; empty: those of ``COLUMNS`` that were measured."""
    by: tuple[str, ...] = ()
    across_models: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value with its 95 % interval, in the unit of its column; None where it was not measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    told_apart: bool = False
    """From the full model."""
    place: int = 0
    """1 for the best of the column, 2 for the second; 0 for all others, and where all are equal."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PaperColumn:
    """A column of a table."""

    name: str
    """Unlike all others of the table."""
    header: str
    unit: str
    cells: tuple[Cell, ...]

    @property
    def has_marks(self) -> bool:
        """Whether a row of it is told apart from the full model."""
        return any(cell.told_apart for cell in self.cells)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaperTable:
    """One table, of trials that may stand in one."""

    name: str
    methods: tuple[str, ...]
    """What its rows are called."""
    columns: tuple[PaperColumn, ...]
    caption: tuple[str, ...]
    """Sentences: what is shown, of how many samples, on what, with which versions, and what the marks mean."""
    caveats: tuple[str, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each method; a column for each value, and ``<column>_low``, ``_high`` and ``_told_apart``."""
        found: dict[str, list[object]] = {"method": list(self.methods)}
        for one in self.columns:
            found[one.name] = [cell.value for cell in one.cells]
            if any(cell.low is not None for cell in one.cells):
                found[f"{one.name}_low"] = [cell.low for cell in one.cells]
                found[f"{one.name}_high"] = [cell.high for cell in one.cells]
            if one.has_marks:
                found[f"{one.name}_told_apart"] = [cell.told_apart for cell in one.cells]
        frame = pd.DataFrame(found)
        frame.attrs = {"units": {one.name: one.unit for one in self.columns}, "caption": " ".join(self.caption)}
        return frame


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaperTables:
    """All tables of a folder."""

    tables: tuple[PaperTable, ...]
    left_out: Mapping[str, int]
    """Why -> how many trials."""

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of all tables, with ``table``, the name of each."""
        parts = [one.frame for one in self.tables]
        for part, one in zip(parts, self.tables, strict=True):
            part.attrs = {}
            part.insert(0, "table", one.name)
        return pd.concat(parts, ignore_index=True)


def paper_tables(folder: Where, wanted: TableWanted | None = None) -> PaperTables:
    """The tables of a folder: one for each block (``analyze.papers.paper_blocks``).

    Raises:
        StoreError: the folder holds no sweep.
        UserError: an unknown row or column, or nothing to show.
    """
    wanted = wanted or TableWanted()
    trials = tables.read(folder, "trials")
    schema = schema_of(trials)
    _require_known(wanted.columns, schema)
    frame = comparable(trials, wanted.by, across_models=wanted.across_models)
    left_out, reader, found = Counter(frame.attrs["left_out"]), SweepReader(folder=folder), []
    for block in blocks(frame, across_models=wanted.across_models):
        keys = chosen_rows(block, wanted.rows)
        if block.repeated:
            left_out["of a configuration that another trial has too"] += block.repeated
        if keys:
            found.append(_table(Shown(block=block, keys=keys, schema=schema, reader=reader), wanted))
    if not found:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "no trials"
        raise UserError(f"nothing to show ({reasons}); name rows that have finished, or 'all'")
    return PaperTables(tables=tuple(found), left_out=dict(left_out))


def _require_known(names: Sequence[str], schema: pa.Schema) -> None:
    known = [*COLUMNS, *(one.name for one in schema if pa.types.is_integer(one.type) or pa.types.is_floating(one.type))]
    for name in names:
        if name not in known:
            raise UserError(f"no column '{name}' for a table{suggestion(name, known)}")


def _table(shown: Shown, wanted: TableWanted) -> PaperTable:
    quality = {task: task_values(shown, task, _quality(rows, shown.schema)) for task, rows in shown.block.tasks.items()}
    columns = tuple(one for name in wanted.columns or COLUMNS for one in _columns(shown, name, quality))
    measured = [name for name in wanted.columns if any(one.name.startswith(name) for one in columns)]
    lacking = [f"{name} was not measured" for name in wanted.columns if name not in measured]
    if not columns:
        raise UserError(f"nothing to show: {', '.join(lacking) or 'none of the usual columns was measured'}")
    marks = _marks(shown, columns, [one for one in quality.values() if QUALITY in (wanted.columns or COLUMNS)])
    return PaperTable(
        name=shown.block.name,
        methods=tuple(_method(shown.block, key) for key in shown.keys),
        columns=columns,
        caption=(*_about(shown), *marks),
        caveats=tuple(dict.fromkeys([*shown.block.remarks, *lacking, *shown.caveats])),
    )


def _quality(rows: pd.DataFrame, schema: pa.Schema) -> Objective:
    return any_column(quality_column(rows), schema)


def _method(block: Block, key: Key) -> str:
    name = block.names[key]
    if key not in block.full.values():
        return name
    return "full model" if name.endswith("as trained") and " " not in name.strip() else f"full model ({name})"


def _columns(shown: Shown, name: str, quality: Mapping[str, TaskValues]) -> Iterator[PaperColumn]:
    """The columns that one name stands for; none where no row was measured."""
    if name == QUALITY:
        several = len(quality) > 1
        for task, values in quality.items():
            named = f"{values.objective.column}_{task}" if several else values.objective.column
            yield from _column(named, task, values)
    elif name == RELATIVE:
        yield from _column(name, COLUMNS[name][1], relative_to_full(list(quality.values()), shown.full))
    else:
        of_trials, header = COLUMNS.get(name, (name, name))
        work = Objective(column=WORK, better="lower", unit="FLOP")
        objective = work if name == WORK else any_column(of_trials, shown.schema)
        parts = [
            task_values(shown, task, objective) for task in shown.block.tasks if _is_measured(shown, task, objective)
        ]
        if len(parts) == len(shown.block.tasks):
            yield from _column(name, header, over_tasks(parts))


def _is_measured(shown: Shown, task: str, objective: Objective) -> bool:
    return bool(finite(shown.trials(task)[0], objective.column).any())


def _column(name: str, header: str, values: TaskValues) -> Iterator[PaperColumn]:
    if not np.isfinite(values.value).any():
        return
    factor, unit = _scaled(values)
    places = _places(values)
    cells = tuple(
        Cell(
            value=_number(value, factor),
            low=_number(low, factor),
            high=_number(high, factor),
            told_apart=bool(told_apart),
            place=place,
        )
        for value, low, high, told_apart, place in zip(
            values.value, values.low, values.high, values.told_apart, places, strict=True
        )
    )
    yield PaperColumn(name=name, header=header, unit=unit, cells=cells)


def _number(value: float, factor: float) -> float | None:
    return float(value) * factor if np.isfinite(value) else None


def _scaled(values: TaskValues) -> tuple[float, str]:
    """By what values are multiplied, and the unit that they then have: percent, or a prefix by their size."""
    unit = values.objective.unit
    if unit == "fraction":
        return 100.0, "%"
    if unit not in ("FLOP", "bytes"):
        return 1.0, unit
    largest = float(np.nanmax(values.value))
    prefix, size = next(((prefix, size) for prefix, size in _PREFIXES if largest >= size), ("", 1.0))
    return 1 / size, f"{prefix}{'B' if unit == 'bytes' else unit}"


def _places(values: TaskValues) -> list[int]:
    """1 for the best values, 2 for the second; 0 for others, and where all are equal."""
    costs = values.objective.sign * values.value
    distinct = np.unique(costs[np.isfinite(costs)])
    if len(distinct) < 2:
        return [0] * len(costs)
    return [1 if cost == distinct[0] else 2 if cost == distinct[1] else 0 for cost in costs]


def _about(shown: Shown) -> Iterator[str]:
    """Samples, hardware, what was timed, and versions of the trials that are shown."""
    parts = {task: shown.trials(task)[0] for task in shown.block.tasks}
    every = pd.concat([part.drop(columns=[]) for part in map(_bare, parts.values())], ignore_index=True)
    counts = [f"{task} (n = {_values(part, 'samples')})" for task, part in parts.items()]
    yield f"{_values(every, 'model')} on {', '.join(counts)}."
    machines = sorted({machine(row) for row in every[["device", "cpu", "cpu_threads"]].to_dict("records")})
    timed = f"batch size {_values(every, 'timing_batch_size')}, {_values(every, 'timing_output_tokens')} output tokens"
    timed = f"{timed}, {_values(every, 'timing_requests')} requests"
    yield f"{' and '.join(machines)}, {_values(every, 'dtype')}; timed: {timed}."
    versions = [f"{name} {known}" for name in _VERSIONS if (known := _values(every, name)) not in ("", "none")]
    if versions:
        yield f"Versions: {', '.join(versions)}."
    if len(parts) > 1:
        yield "What is not accuracy is the mean over the tasks."


def _bare(part: pd.DataFrame) -> pd.DataFrame:
    part = part.copy()
    part.attrs = {}
    return part


def _values(part: pd.DataFrame, name: str) -> str:
    found = sorted(part[name].dropna().unique()) if name in part else []
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in found)


def _marks(shown: Shown, columns: Sequence[PaperColumn], quality: Sequence[TaskValues]) -> Iterator[str]:
    """What intervals and marks mean, and by how much the best values are optimistic."""
    if any(cell.low is not None for column in columns for cell in column.cells):
        yield "Intervals are 95 %."
    yield from (f"{_capital(sentence)}." for sentence in dict.fromkeys(shown.captions))
    if any(column.name == WORK for column in columns):
        yield "Operations: vision, prefill, and the decode steps of a timed request."
    if any(column.has_marks for column in columns):
        yield "† differs from the full model at 95 %, in pairs, with Holm's adjustment over the rows of the column."
    yield from _optimistic(columns, quality)


def _capital(sentence: str) -> str:
    """Names of columns keep their small letters."""
    return sentence if "_" in sentence.split(maxsplit=1)[0] else f"{sentence[0].upper()}{sentence[1:]}"


def _optimistic(columns: Sequence[PaperColumn], quality: Sequence[TaskValues]) -> Iterator[str]:
    if len(columns[0].cells) < 2 or not quality:
        return
    said = []
    for values in quality:
        factor, unit = _scaled(values)
        column = next((one for one in columns if _is_of(one, values)), None)
        if column is None or values.optimism is None:
            continue
        by = values.optimism * factor
        corrected = f"{factor * float(np.nanmax(values.value)) - by:.1f}{f' {unit}' if unit else ''}"
        said.append(
            f"{column.header} by {f'about {by:.1f}' if by >= 0.05 else 'less than 0.1'} (corrected: {corrected})"
        )
    yield (
        f"The best value of a column is optimistic, as it is the best of {len(columns[0].cells)} rows on these samples"
        f"{': ' if said else ''}{', '.join(said)}; whoever chose on some samples should report on others."
    )


def _is_of(column: PaperColumn, values: TaskValues) -> bool:
    measured = [cell.value for cell in column.cells]
    factor, _ = _scaled(values)
    return measured == [_number(value, factor) for value in values.value]
