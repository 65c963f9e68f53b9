"""The index of a split: its rows with the size of every picture, built once and cached as Parquet.

Building it reads the headers of all pictures, hence all files. The cached index is keyed by the files' names, sizes and
modification times, so that later processes start without reading the files again. It holds the columns that a task
needs, but not the pictures.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprof.errors import UserError, suggestion
from vlmprof.records import Picture
from vlmprof.tasks._data.cache import cache_folder
from vlmprof.tasks._data.pictures import StoredPicture, header_size, image_bytes

FORMAT = 1
"""Increase when older index files can no longer be read."""
_IDENTITY = "\0picture"
BATCH_ROWS = 64
"""Rows whose pictures are in memory at the same time."""
_SCHEMA = pa.schema(
    [
        ("values", pa.string()),
        ("path", pa.string()),
        ("key", pa.string()),
        ("column", pa.string()),
        ("group", pa.int32()),
        ("row", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRow:
    """One row: the columns that the task reads, and its picture."""

    values: Mapping[str, Any]
    picture: Picture
    identity: str
    """Identity of the picture: a digest of its bytes, or its path in the row."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that are read; all others are ignored."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    image: str = "image"
    """Column of the picture; empty when the pictures are in separate files."""


def read_index(files: Sequence[Path], columns: Columns) -> list[IndexedRow]:
    """All rows of these files, in file order. Paths of pictures are relative to the folder of the file that names them.

    Args:
        files: Parquet, JSONL or JSON.
        columns: The columns to read.

    Raises:
        UserError: a column is missing, or a file cannot be read.
    """
    index = cache_folder() / "index" / f"{_key(files, columns)}.parquet"
    if not index.is_file():
        rows = [row for file in files for row in _scan(file, columns)]
        index.parent.mkdir(parents=True, exist_ok=True)
        partial = index.with_suffix(f".{os.getpid()}.partial")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial)
        partial.replace(index)
    return [_indexed(row) for row in pq.read_table(index).to_pylist()]


def _indexed(row: Mapping[str, Any]) -> IndexedRow:
    values = json.loads(row["values"])
    location = {name: row[name] for name in ("path", "key", "column", "group", "row")}
    picture = Picture(width=row["width"], height=row["height"], load=StoredPicture(**location))
    return IndexedRow(values=values, picture=picture, identity=values.pop(_IDENTITY))


def _scan(file: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    rows = _parquet_rows if file.suffix == ".parquet" else _json_rows
    for group, row, values in rows(file, columns):
        cell = values.pop(columns.image, None) if columns.image else None
        yield {**_index_entry(file, columns.image, cell, values), "group": group, "row": row}


def _index_entry(file: Path, image: str, cell: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Values and picture of a row. An unreadable picture gets size 1 x 1; its sample fails when it is opened."""
    name = _file_name(cell)
    if name:
        path = file.parent / name
        identity, key = name, hashlib.sha256(f"{path.resolve()}\0{_stamp(path)}".encode()).hexdigest()[:32]
        location: dict[str, Any] = {"path": str(path), "column": "", "key": key}
    else:
        encoded = image_bytes(cell) if cell is not None else b""
        identity = hashlib.sha256(encoded).hexdigest()[:32] if encoded else ""
        location = {"path": str(file), "column": image, "key": identity or "none"}
    try:
        width, height = header_size(path if name else encoded)
    except OSError:
        width = height = 1
    serialized = json.dumps({**values, _IDENTITY: identity}, default=str)
    return {"values": serialized, "width": width, "height": height, **location}


def _file_name(cell: Any) -> str:
    """The path in a cell that holds no bytes, else an empty string."""
    if isinstance(cell, Mapping):
        return "" if cell.get("bytes") else str(cell.get("path") or "")
    return cell if isinstance(cell, str) else ""


def _stamp(path: Path) -> str:
    """Size and modification time of a file."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _parquet_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    with pq.ParquetFile(file) as table:
        names = _columns_to_read(file, columns, table.schema_arrow.names)
        for group in range(table.num_row_groups):
            batches = table.iter_batches(BATCH_ROWS, row_groups=[group], columns=names)
            for row, values in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                yield group, row, values


def _json_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for number, values in enumerate(_objects(file)):
        if not isinstance(values, dict):
            raise UserError(f"{file}: expected one JSON object per sample, but number {number + 1} is {values!r}")
        yield 0, number, {name: values[name] for name in _columns_to_read(file, columns, list(values))}


def _objects(file: Path) -> Iterator[Any]:
    """The objects of a JSONL file, or of the one list in a JSON file."""
    with file.open(encoding="utf-8") as stream:
        try:
            if file.suffix == ".jsonl":
                yield from (json.loads(line) for line in stream if line.strip())
                return
            document = json.load(stream)
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}") from None
    candidates = document.values() if isinstance(document, dict) else [document]
    lists = [value for value in candidates if isinstance(value, list)]
    if len(lists) != 1:
        raise UserError(f"{file}: expected a list of samples, or an object that contains exactly one list")
    yield from lists[0]


def _columns_to_read(file: Path, columns: Columns, available: Sequence[str]) -> list[str]:
    """The required columns, and the optional ones that the file has."""
    required = [*columns.required, *([columns.image] if columns.image else [])]
    missing = next((name for name in required if name not in available), None)
    if missing is not None:
        raise UserError(f"{file} has no column '{missing}'{suggestion(missing, available)}")
    return [*required, *(name for name in columns.optional if name in available)]


def _key(files: Sequence[Path], columns: Columns) -> str:
    stamps = [[str(file.resolve()), _stamp(file)] for file in files]
    content = json.dumps([FORMAT, stamps, asdict(columns)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]
