"""The tables: Parquet, one object a trial and table, written whole or not at all, read while a sweep runs.

``samples/<trial>.parquet``, ``timings/<trial>.parquet``, ``trials/<trial>.parquet``; as trials gather, their objects
are merged into larger ones. Only trials that the ledger lists are read, so what a crash left behind is never seen; a
rerun overwrites it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
"""Objects asked for at a time: in an object store most of a read is waiting."""
TRIES = 5
SMALL = 32
"""Rows of a table that is not compressed."""


def write(
    where: Where,
    table: PartName,
    trial: str,
    rows: Sequence[Row],
    kind: pa.Schema,
    epoch: int | None = None,
) -> str:
    """Write the rows of one trial, whole or not at all; on disk when this returns.

    Args:
        where: Of the results.
        table: Which of the three.
        trial: Its id.
        rows: All of its rows.
        kind: The schema.
        epoch: ``Ledger.epoch`` of the ledger that will list it.

    Returns:
        The name of the object.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
        ValueError: a row has a column that the schema lacks; Arrow alone would drop it without a word.
    """
    unknown = sorted({name for row in rows for name in row} - set(kind.names))
    if unknown:
        raise ValueError(f"the table '{table}' has no column named {', '.join(unknown)}")
    name = own_object(table, trial, epoch)
    results_folder(where).write(name, packed(pa.Table.from_pylist([dict(row) for row in rows], schema=kind)))
    return name


def packed(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    # A page of few values grows by compression, and takes two to three times as long to write and to read.
    pq.write_table(table, sink, compression="zstd" if len(table) > SMALL else "none")
    return sink.getvalue()


def read(where: Where, table: TableName) -> pd.DataFrame:
    """All rows of a table, of the trials that the ledger lists as ended, in the order of their ids.

    The Arrow schema, with units and directions, is in ``frame.attrs["schema"]``.

    Raises:
        StoreError: the folder holds no sweep.
    """
    place = results_folder(where)
    ledger.require(place)
    whole = joined(_parts(place, table), table)
    frame: pd.DataFrame = whole.to_pandas()
    frame.attrs["schema"] = _schema(table, whole.column_names)
    return frame


def read_part(where: Where, table: PartName, name: str) -> list[dict[str, Any]]:
    """The rows of one object, listed or not; none where it is gone.

    Raises:
        StoreError: the object is damaged.
    """
    part = _fetched(results_folder(where), own_object(table, name, None))
    rows: list[dict[str, Any]] = [] if part is None else part.to_pylist()
    return rows


def remove(where: Where, table: PartName, name: str) -> None:
    """Take one object away, if it is there."""
    results_folder(where).remove(own_object(table, name, None))


def without_rows(where: Where) -> list[str]:
    """Trials that the ledger lists as ended although the table ``trials`` has no object with their row."""
    place = results_folder(where)
    catalog = Manifest().take(ledger.read(place))
    there = {f"trials/{name}" for name in place.names("trials")}
    alone = [trial for trial, name in catalog.alone("trials").items() if name not in there]
    lost = [trials for name, trials in catalog.together("trials").items() if name not in there]
    return sorted({*alone, *(trial for trials in lost for trial in trials)})


def joined(parts: Sequence[pa.Table], table: TableName) -> pa.Table:
    """One table of many, sorted by trial; rows of a trial keep their order.

    Folders may hold trials of different knobs: each part gets the columns of all, null where it has none.
    """
    kind = _schema(table, {name for part in parts for name in part.column_names})
    if not parts:
        return kind.empty_table()
    whole = pa.concat_tables([_widened(part, kind) for part in parts])
    trials = whole.column("trial").combine_chunks()
    if len(trials) > 1 and pc.any(pc.less(trials[1:], trials[:-1])).as_py():
        whole = whole.take(pc.sort_indices(trials))  # a stable sort
    return whole


def fetch(place: ResultsFolder, names: Sequence[str]) -> list[pa.Table | None]:
    """The tables in these objects; None for one that is not there."""
    if not place.shared:  # a disk of this host does not make one wait, and threads only get in each other's way
        return [_fetched(place, name) for name in names]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda name: _fetched(place, name), names))


def _fetched(place: ResultsFolder, name: str) -> pa.Table | None:
    data = place.read(name)
    if data is None:
        return None
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except pa.ArrowException as error:
        raise StoreError(f"{place}/{name} is damaged: {error}") from None


def _parts(place: ResultsFolder, table: TableName) -> list[pa.Table]:
    """What the ledger lists. Objects can be merged between two looks: then the ledger has grown, and is asked again."""
    entries = list(ledger.read(place))
    for _ in range(TRIES):
        catalog = Manifest().take(entries)
        there = {f"{table}/{name}" for name in place.names(table)}
        alone, together = list(catalog.alone(table).values()), catalog.together(table)
        wanted = [*together, *(name for name in alone if name in there)]
        found = fetch(place, wanted)
        if len(wanted) == len(together) + len(alone) and all(part is not None for part in found):
            break
        again = list(ledger.read(place))
        if len(again) == len(entries):
            break  # no rows for some trials: they failed before there were any
        entries = again
    return [
        _of(part, together[name], catalog.members[name]) if name in together else part
        for name, part in zip(wanted, found, strict=True)
        if part is not None
    ]


def _of(part: pa.Table, trials: frozenset[str], members: frozenset[str]) -> pa.Table:
    """Only the rows of these trials; the others have run again since."""
    return part if trials == members else part.filter(pc.is_in(part.column("trial"), pa.array(sorted(trials))))


def _widened(part: pa.Table, kind: pa.Schema) -> pa.Table:
    if part.schema.equals(kind):
        return part
    there: Mapping[str, int] = {name: i for i, name in enumerate(part.column_names)}
    columns = [
        part.column(there[field.name]).cast(field.type) if field.name in there else pa.nulls(len(part), field.type)
        for field in kind
    ]
    return pa.Table.from_arrays(columns, schema=kind)


def _schema(table: TableName, names: Iterable[str]) -> pa.Schema:
    if table == "trials":
        return schema.trials_schema(schema.knobs_of(names))
    return schema.SAMPLES if table == "samples" else schema.TIMINGS
