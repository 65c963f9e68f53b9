"""The tables: Parquet, one object per trial and table, written completely or not at all, readable while a sweep runs.

``samples/<trial>.parquet``, ``timings/<trial>.parquet``, ``trials/<trial>.parquet``; as trials accumulate, their
objects are merged into larger ones. Only trials that the ledger lists are read, so objects that a crash left behind are
never read; a rerun overwrites them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlmprof.errors import StoreError
from vlmprof.records import Row
from vlmprof.store import ledger, schema
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.manifest import Manifest, PartName, TableName, own_object

READERS = 16
"""Objects read at a time: in an object store most of a read is waiting."""
MANY = 32
"""Objects from which on threads pay on a local disk."""
TRIES = 5
_OWN_OBJECT = re.compile(r"(?P<table>samples|timings|trials)/(?!merged-)(?P<trial>.+?)(\.e\d{6})?\.parquet$")
"""As ``manifest.own_object`` names it."""
SMALL = 32
"""Tables with at most so many rows are not compressed."""


def write(
    where: Where,
    table: PartName,
    trial: str,
    rows: Sequence[Row],
    arrow_schema: pa.Schema,
    epoch: int | None = None,
) -> str:
    """Write the rows of one trial, completely or not at all; on disk when this returns.

    Args:
        where: The results folder.
        table: One of the three tables, or ``chunks``.
        trial: Its id.
        rows: All of its rows.
        arrow_schema: The schema of the table.
        epoch: ``Ledger.epoch`` of the ledger that will list it.

    Returns:
        The name of the object.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
        ValueError: a row has a column that the schema lacks; Arrow alone would drop it silently.
    """
    unknown = sorted({name for row in rows for name in row} - set(arrow_schema.names))
    if unknown:
        raise ValueError(f"the table '{table}' has no column named {', '.join(unknown)}")
    name = own_object(table, trial, epoch)
    results_folder(where).write(
        name, parquet_bytes(pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema))
    )
    return name


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    # Compression makes a page of few values larger, and two to three times as slow to write and to read.
    compression = "zstd" if len(table) > SMALL else "none"
    pq.write_table(table, sink, compression=compression, write_page_checksum=True)
    return sink.getvalue()


@final
@dataclass(frozen=True, slots=True)
class _SharedSchema:
    """A schema in a frame's ``attrs``, which pandas copies deeply whenever a frame or column is made of another.

    A schema never changes, and copying one takes 4 ms: four fifths of the time of a front went there.
    """

    arrow: pa.Schema

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedSchema:
        return self


def schema_of(frame: pd.DataFrame) -> pa.Schema:
    """The Arrow schema of a frame that comes from ``read``, also where rows or columns were taken out of it."""
    shared: _SharedSchema = frame.attrs["schema"]
    return shared.arrow


def read(where: Where, table: TableName) -> pd.DataFrame:
    """All rows of a table, of the trials that the ledger lists as ended, ordered by trial id.

    ``schema_of(frame)`` gives the Arrow schema, with units and directions. An object that is damaged is left out;
    ``frame.attrs["lost"]`` has the ids of finished trials whose rows should be in the table and are not.

    Raises:
        StoreError: the folder holds no sweep.
    """
    results = results_folder(where)
    ledger.require(results)
    parts, damaged = _parts(results, table)
    rows = concatenated(parts, table)
    frame: pd.DataFrame = rows.to_pandas()
    frame.attrs["schema"] = _SharedSchema(_schema(table, rows.column_names))
    if table == "trials":
        states = ledger.read_states(results)
        finished = {trial for trial, state in states.items() if state in ledger.FINISHED}
        damaged = finished.difference(frame["trial"])
    frame.attrs["lost"] = tuple(sorted(damaged))
    return frame


def read_columns(where: Where, table: TableName, columns: Sequence[str]) -> pa.Table:
    """Some columns of a table, as ``read`` but without the cost of the others: answers and step times are long.

    A column that an object of an earlier version lacks is null in its rows.

    Raises:
        StoreError: the folder holds no sweep.
    """
    results = results_folder(where)
    ledger.require(results)
    parts, _ = _parts(results, table, columns)
    wanted = pa.schema([_schema(table, ()).field(name) for name in columns])
    return pa.concat_tables([_with_columns(part, wanted) for part in parts]) if parts else wanted.empty_table()


def read_part(where: Where, table: PartName, name: str) -> list[dict[str, Any]]:
    """The rows of one object, whether or not the ledger lists it; none if it is gone.

    Raises:
        StoreError: the object is damaged.
    """
    part = _read_object(results_folder(where), own_object(table, name, None))
    rows: list[dict[str, Any]] = [] if part is None else part.to_pylist()
    return rows


def remove(where: Where, table: PartName, name: str) -> None:
    """Remove one object, if it exists."""
    results_folder(where).remove(own_object(table, name, None))


def without_rows(where: Where) -> list[str]:
    """Trials that the ledger lists as ended although the table ``trials`` has no object with their row."""
    results = results_folder(where)
    manifest = Manifest().apply(ledger.read(results))
    existing = {f"trials/{name}" for name in results.names("trials")}
    missing = [trial for trial, name in manifest.own_objects("trials").items() if name not in existing]
    missing_merged = [trials for name, trials in manifest.merged_objects("trials").items() if name not in existing]
    return sorted({*missing, *(trial for trials in missing_merged for trial in trials)})


def concatenated(parts: Sequence[pa.Table], table: TableName) -> pa.Table:
    """Many tables as one, sorted by trial; rows of a trial keep their order.

    Folders may hold trials of different knobs: each part gets the columns of all, with nulls where it lacks them.
    """
    arrow_schema = _schema(table, {name for part in parts for name in part.column_names})
    if not parts:
        return arrow_schema.empty_table()
    rows = pa.concat_tables([_with_columns(part, arrow_schema) for part in parts])
    trials = rows.column("trial").combine_chunks()
    if len(trials) > 1 and pc.any(pc.less(trials[1:], trials[:-1])).as_py():
        rows = rows.take(pc.sort_indices(trials))  # a stable sort
    return rows


def read_objects(
    results: ResultsFolder, names: Sequence[str], columns: Sequence[str] = ()
) -> list[pa.Table | StoreError | None]:
    """The tables in these objects; None for one that does not exist, an error for one that is damaged.

    ``columns`` are those that are read, as far as an object has them; empty: all.
    """
    # A local disk has no latency to hide: a few small objects are read at once, many are decoded on all processors.
    readers_of = READERS if results.shared else min(READERS, os.cpu_count() or 1) if len(names) >= MANY else 1
    if readers_of == 1:
        return [_table_or_error(results, name, columns) for name in names]
    with ThreadPoolExecutor(readers_of) as readers:
        return list(readers.map(lambda name: _table_or_error(results, name, columns), names))


def _table_or_error(results: ResultsFolder, name: str, columns: Sequence[str]) -> pa.Table | StoreError | None:
    try:
        return _read_object(results, name, columns)
    except StoreError as error:
        return error


def _read_object(results: ResultsFolder, name: str, columns: Sequence[str] = ()) -> pa.Table | None:
    data = results.read(name)
    if data is None:
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        held = [one for one in columns if one in file.schema_arrow.names] or None
        part = file.read(columns=held, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:  # OSError: how pyarrow reports a page that is cut off
        raise StoreError(f"{results}/{name} is damaged: {error}") from None
    if "trial" not in part.column_names and not name.startswith("chunks/"):
        raise StoreError(f"{results}/{name} is damaged: it has no column 'trial'")
    if foreign := _foreign(part, name):
        raise StoreError(f"{results}/{name} is damaged: {foreign}")
    return part


def _foreign(part: pa.Table, name: str) -> str:
    """What a trial's own object holds that is not the trial's, such as the content of another one; else nothing."""
    own = _OWN_OBJECT.match(name)
    if own is None or not len(part):
        return ""
    trials = part.column("trial").unique().to_pylist()
    if trials != [own["trial"]]:
        return f"it holds rows of {', '.join(map(str, trials[:3]))}"
    return f"it holds {len(part)} rows of one trial" if own["table"] == "trials" and len(part) > 1 else ""


def _parts(results: ResultsFolder, table: TableName, columns: Sequence[str] = ()) -> tuple[list[pa.Table], set[str]]:
    """The tables that the ledger lists, and the trials whose object is damaged.

    Objects can be merged between reading the ledger and reading them: then the ledger has grown, and is read again.
    """
    entries = list(ledger.read(results))
    for _ in range(TRIES):
        manifest = Manifest().apply(entries)
        existing = {f"{table}/{name}" for name in results.names(table)}
        own, merged = manifest.own_objects(table), manifest.merged_objects(table)
        names = [*merged, *(name for name in own.values() if name in existing)]
        parts = read_objects(results, names, columns)
        if len(names) == len(merged) + len(own) and all(part is not None for part in parts):
            break
        reread = list(ledger.read(results))
        if len(reread) == len(entries):
            break  # no rows for some trials: they failed before there were any
        entries = reread
    trials_in = {**merged, **{name: frozenset([trial]) for trial, name in own.items()}}
    sound = [
        _rows_of(part, merged[name], manifest.members[name]) if name in merged else part
        for name, part in zip(names, parts, strict=True)
        if isinstance(part, pa.Table)
    ]
    spoilt = [trials_in[name] for name, part in zip(names, parts, strict=True) if isinstance(part, StoreError)]
    return sound, {trial for trials in spoilt for trial in trials}


def _rows_of(part: pa.Table, trials: frozenset[str], members: frozenset[str]) -> pa.Table:
    """The rows of these trials only; the other members have run again since."""
    return part if trials == members else part.filter(pc.is_in(part.column("trial"), pa.array(sorted(trials))))


def _with_columns(part: pa.Table, arrow_schema: pa.Schema) -> pa.Table:
    if part.schema.equals(arrow_schema):
        return part
    index: Mapping[str, int] = {name: i for i, name in enumerate(part.column_names)}
    columns = [
        part.column(index[field.name]).cast(field.type) if field.name in index else pa.nulls(len(part), field.type)
        for field in arrow_schema
    ]
    return pa.Table.from_arrays(columns, schema=arrow_schema)


def _schema(table: TableName, names: Iterable[str]) -> pa.Schema:
    if table == "trials":
        return schema.schema_of_row(names)
    return schema.SAMPLES if table == "samples" else schema.TIMINGS
