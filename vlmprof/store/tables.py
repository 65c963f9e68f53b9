"""The tables on disk: one Parquet file a trial and table, written whole or not at all, read while a sweep runs.

``<folder>/samples/<trial>.parquet``, ``timings/<trial>.parquet``, ``trials/<trial>.parquet``. Only trials that the
ledger lists are read, so what a crash left behind is never seen; a rerun overwrites it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlmprof.errors import StoreError
from vlmprof.records import Row
from vlmprof.store import schema
from vlmprof.store.ledger import LEDGER, read_states

TableName = Literal["samples", "timings", "trials", "chunks"]


def write(folder: Path, table: TableName, trial: str, rows: Sequence[Row], kind: pa.Schema) -> Path:
    """Write the rows of one trial: data, fsync, rename, fsync of the folder.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
        ValueError: a row has a column that the schema lacks; Arrow alone would drop it without a word.
    """
    unknown = sorted({name for row in rows for name in row} - set(kind.names))
    if unknown:
        raise ValueError(f"the table '{table}' has no column named {', '.join(unknown)}")
    target = folder / table / f"{trial}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=kind), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    _sync_folder(target.parent)
    return target


def read(folder: Path, table: TableName) -> pd.DataFrame:
    """All rows of a table, of the trials that the ledger lists as finished, in the order of their ids.

    The Arrow schema, with units and directions, is in ``frame.attrs["schema"]``.

    Raises:
        StoreError: the folder holds no sweep.
    """
    return _frame(_tables(folder, table), table)


def read_part(folder: Path, table: TableName, name: str) -> list[dict[str, Any]]:
    """The rows of one file, listed or not; none where it is gone.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / table / f"{name}.parquet"
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove it, and what was in it is computed again") from None
    return rows


def remove(folder: Path, table: TableName, name: str) -> None:
    """Take one file away, if it is there."""
    (folder / table / f"{name}.parquet").unlink(missing_ok=True)


def _tables(folder: Path, table: TableName) -> list[pa.Table]:
    if not (folder / LEDGER).is_file():
        raise StoreError(f"{folder} holds no sweep: there is no {LEDGER} in it; start one with 'vlmprof run JOB.yaml'")
    trials = sorted(trial for trial, state in read_states(folder).items() if state != "started")
    paths = [folder / table / f"{trial}.parquet" for trial in trials]
    return [pq.read_table(path) for path in paths if path.is_file()]


def _frame(tables: list[pa.Table], table: TableName) -> pd.DataFrame:
    kind = _schema(table, {name for part in tables for name in part.column_names})
    # Folders may hold trials of different knobs: each part gets the columns of all, null where it has none.
    parts = [_widened(part, kind) for part in tables]
    frame: pd.DataFrame = (pa.concat_tables(parts) if parts else kind.empty_table()).to_pandas()
    frame.attrs["schema"] = kind
    return frame


def _widened(part: pa.Table, kind: pa.Schema) -> pa.Table:
    columns = [
        part.column(field.name).cast(field.type) if field.name in part.column_names else pa.nulls(len(part), field.type)
        for field in kind
    ]
    return pa.Table.from_arrays(columns, schema=kind)


def _schema(table: TableName, names: Iterable[str]) -> pa.Schema:
    if table == "trials":
        return schema.trials_schema(schema.knobs_of(names))
    return schema.SAMPLES if table == "samples" else schema.TIMINGS


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
