"""The tables of a results folder as CSV, JSON lines or Arrow files, with what their columns mean beside them.

``samples`` and ``timings`` are written object by object (``store.streaming``), so that a table may be larger than the
memory. A file appears under its name when it is complete, and never replaces another one unless that is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast, final

import pyarrow as pa
from pyarrow.csv import CSVWriter

from vlmprof.analyze.front_doubt import MEANINGS
from vlmprof.analyze.pareto import to_arrow
from vlmprof.errors import StoreError, UserError, suggestion
from vlmprof.escaping import as_cell
from vlmprof.report.pareto_table import read_front
from vlmprof.store import tables
from vlmprof.store.descriptions import describe
from vlmprof.store.filesystem import Where
from vlmprof.store.manifest import TableName
from vlmprof.store.schema import SAMPLES, TIMINGS
from vlmprof.store.streaming import TableStream

FRONT = "front"
EXPORTED = ("trials", "samples", "timings", FRONT)
SIDECAR = "columns.json"
ROWS = 20_000
"""Of one batch, at most."""
_OF_FRONT = {
    "group": "Name of the group of comparable trials: equal in model, data, device and timing.",
    "on_front": "Whether no other trial of the group is at least as good in all objectives and better in one.",
    **MEANINGS,
}
Writer: TypeAlias = Callable[[Path, pa.Schema, Iterable[pa.Table]], int]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    files: Mapping[str, Path]
    """Table -> its file."""
    rows: Mapping[str, int]
    """Table -> rows written."""
    sidecar: Path
    """The file that says what the columns are: type, unit, direction, interval and description."""
    lost: Mapping[str, tuple[str, ...]]
    """Table -> finished trials whose rows are damaged, and so are not in the file."""


def export(folder: Where, form: str, to: Path, names: Sequence[str] = EXPORTED, *, force: bool = False) -> Exported:
    """Write tables of a results folder to files.

    Args:
        folder: results.
        form: ``csv``, ``jsonl`` or ``arrow`` (Feather, version 2).
        to: a folder; or, for one table, a file with the ending of the format.
        names: of ``EXPORTED``; ``front`` is the default front with its doubt.
        force: whether files that are there are replaced.

    Raises:
        StoreError: the folder holds no sweep, or a file cannot be written.
        UserError: an unknown table or format, a file for several tables, or a file that is there already.
    """
    if form not in WRITERS:
        raise UserError(f"no format '{form}'{suggestion(form, list(WRITERS))}")
    for name in names:
        if name not in EXPORTED:
            raise UserError(f"no table '{name}' to export{suggestion(name, EXPORTED)}")
    files, sidecar = _places(to, form, list(dict.fromkeys(names)))
    there = [path for path in (*files.values(), sidecar) if path.exists()]
    if there and not force:
        raise UserError(f"{there[0]} is there already; name another place, or replace it with --force")
    sources = {name: _source(folder, name) for name in files}
    rows = {name: _written(WRITERS[form], files[name], *source[:2]) for name, source in sources.items()}
    meanings = {name: _meanings(name, source[0]) for name, source in sources.items()}
    _written(_json_of(meanings), sidecar, pa.schema([]), ())
    lost = {name: tuple(sorted(source[2])) for name, source in sources.items() if source[2]}
    return Exported(files=files, rows=rows, sidecar=sidecar, lost=lost)


def _places(to: Path, form: str, names: list[str]) -> tuple[dict[str, Path], Path]:
    if not names:
        raise UserError(f"no table to export: expected one or more of {', '.join(EXPORTED)}")
    if to.suffix == f".{form}" and not to.is_dir():
        if len(names) > 1:
            raise UserError(f"{to} is one file, and {len(names)} tables are to be written; name one table, or a folder")
        return {names[0]: to}, to.with_name(f"{to.name}.{SIDECAR}")
    if to.suffix in {f".{one}" for one in WRITERS} or to.is_file():
        raise UserError(f"{to}: expected a folder, or a name that ends in .{form}")
    return {name: to / f"{name}.{form}" for name in names}, to / SIDECAR


def _source(folder: Where, name: str) -> tuple[pa.Schema, Iterable[pa.Table], set[str] | Sequence[str]]:
    """The schema of a table, its rows, and the trials that are lost (once all rows were read)."""
    if name == FRONT:
        table = to_arrow(read_front(folder, doubt=True))
        return table.schema, [table], ()
    if name == "trials":
        frame = tables.read(folder, "trials")
        schema, lost = tables.schema_of(frame), frame.attrs["lost"]
        frame.attrs = {}  # pyarrow would write them too
        return schema, [pa.Table.from_pandas(frame, schema=schema, preserve_index=False)], lost
    stream = TableStream(where=folder, table=cast(TableName, name))
    return SAMPLES if name == "samples" else TIMINGS, stream, stream.lost


def _meanings(name: str, schema: pa.Schema) -> dict[str, dict[str, str]]:
    of_table: TableName = "trials" if name == FRONT else cast(TableName, name)
    found = {}
    for one in schema:
        known = {key.decode(): text.decode() for key, text in (one.metadata or {}).items()}
        meaning = _OF_FRONT.get(one.name) if name == FRONT else None
        if meaning is None and one.name.endswith(("_band_low", "_band_high")):
            meaning = "End of the simultaneous 95 % interval of the objective."
        found[one.name] = {"type": str(one.type), **known, "description": meaning or describe(of_table, one.name)}
    return found


def _written(write: Writer, path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """Write a file under another name and rename it, so that it is complete or not there."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = write(unfinished, schema, parts)
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return rows


def _batches(parts: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from part.to_batches(max_chunksize=ROWS)


def _to_csv(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """Lists as JSON; texts that a spreadsheet would take for a formula get an apostrophe before them."""
    rows = 0
    shown = pa.schema([pa.field(as_cell(one.name), _shown_type(one.type)) for one in schema])
    with path.open("wb") as file, CSVWriter(file, shown) as writer:
        for batch in _batches(parts):
            writer.write_batch(pa.record_batch([_shown(column) for column in batch.columns], schema=shown))
            rows += len(batch)
    return rows


def _shown_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_list(kind) else kind


def _shown(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        values = column.to_pylist()
        texts = [None if value is None else json.dumps(_plain(value), ensure_ascii=False) for value in values]
        return pa.array([as_cell(text) for text in texts], pa.string())
    if pa.types.is_string(column.type):
        coded = column.dictionary_encode()  # a text that many rows have is looked at once
        return pa.array(list(map(as_cell, coded.dictionary.to_pylist())), pa.string()).take(coded.indices)
    return column


def _to_jsonl(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """A line of JSON for each row; a number that is not finite, which JSON lacks, is null."""
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for batch in _batches(parts):
            for row in batch.to_pylist():
                file.write(json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n")
            rows += len(batch)
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_arrow(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """Feather, version 2: the IPC format of Arrow, with units and directions in the metadata of the fields."""
    rows = 0
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with path.open("wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in _batches(parts):
            writer.write_batch(batch)
            rows += len(batch)
    return rows


def _json_of(value: Any) -> Writer:
    def write(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0

    return write


WRITERS: Mapping[str, Writer] = {"csv": _to_csv, "jsonl": _to_jsonl, "arrow": _to_arrow}
