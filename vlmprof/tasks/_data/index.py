"""The rows of a split with the size of every picture, read once and kept as Parquet.

Reading the headers of all pictures means reading all files once; the index remembers what that gave, under a key of the
files' names, sizes and times, so that the next process starts at once. It holds the columns that a task needs, never
the pictures.
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
"""Changes when an index of before cannot be read any more."""
_IDENTITY = "\0picture"
BATCH_ROWS = 64
"""Rows with their pictures in memory at a time."""
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
    """One row: the columns a task asked for, and its picture."""

    values: Mapping[str, Any]
    picture: Picture
    identity: str
    """What the picture is: a digest of its bytes, or the path it was named by."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is read of a row; the rest is not."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    image: str = "image"
    """Column of the picture; empty where pictures lie in files of their own."""


def read_index(files: Sequence[Path], columns: Columns) -> list[IndexedRow]:
    """All rows of these files, in the order of the files. Paths of pictures start from the folder of their file.

    Args:
        files: Parquet, JSONL or JSON.
        columns: What a row must have.

    Raises:
        UserError: a column is missing, or a file cannot be read.
    """
    kept = cache_folder() / "index" / f"{_key(files, columns)}.parquet"
    if not kept.is_file():
        rows = [row for file in files for row in _scan(file, columns)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial)
        partial.replace(kept)
    return [_indexed(row) for row in pq.read_table(kept).to_pylist()]


def _indexed(row: Mapping[str, Any]) -> IndexedRow:
    values = json.loads(row["values"])
    where = {name: row[name] for name in ("path", "key", "column", "group", "row")}
    picture = Picture(width=row["width"], height=row["height"], load=StoredPicture(**where))
    return IndexedRow(values=values, picture=picture, identity=values.pop(_IDENTITY))


def _scan(file: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    read = _parquet_rows if file.suffix == ".parquet" else _json_rows
    for group, row, values in read(file, columns):
        cell = values.pop(columns.image, None) if columns.image else None
        yield {**_picture(file, columns.image, cell, values), "group": group, "row": row}


def _picture(file: Path, image: str, cell: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The picture's part of a row. One that cannot be read is 1 x 1 here and fails its sample when it is opened."""
    named = _named_file(cell)
    if named:
        path = file.parent / named
        identity, key = named, hashlib.sha256(f"{path.resolve()}\0{_stamp(path)}".encode()).hexdigest()[:32]
        where: dict[str, Any] = {"path": str(path), "column": "", "key": key}
    else:
        encoded = image_bytes(cell) if cell is not None else b""
        identity = hashlib.sha256(encoded).hexdigest()[:32] if encoded else ""
        where = {"path": str(file), "column": image, "key": identity or "none"}
    try:
        width, height = header_size(path if named else encoded)
    except OSError:
        width = height = 1
    said = json.dumps({**values, _IDENTITY: identity}, default=str)
    return {"values": said, "width": width, "height": height, **where}


def _named_file(cell: Any) -> str:
    """The path of a cell that holds no bytes, else an empty text."""
    if isinstance(cell, Mapping):
        return "" if cell.get("bytes") else str(cell.get("path") or "")
    return cell if isinstance(cell, str) else ""


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _parquet_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    with pq.ParquetFile(file) as table:
        wanted = _present(file, columns, table.schema_arrow.names)
        for group in range(table.num_row_groups):
            batches = table.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted)
            for row, values in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                yield group, row, values


def _json_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for number, values in enumerate(_objects(file)):
        if not isinstance(values, dict):
            raise UserError(f"{file}: expected an object a sample, number {number + 1} is {values!r}")
        yield 0, number, {name: values[name] for name in _present(file, columns, list(values))}


def _objects(file: Path) -> Iterator[Any]:
    """The objects of a JSONL file, or of the one list in a JSON file."""
    with file.open(encoding="utf-8") as stream:
        try:
            if file.suffix == ".jsonl":
                yield from (json.loads(line) for line in stream if line.strip())
                return
            whole = json.load(stream)
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}") from None
    lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else [whole]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise UserError(f"{file}: expected a list of samples, or an object with one list in it")
    yield from lists[0]


def _present(file: Path, columns: Columns, there: Sequence[str]) -> list[str]:
    required = [*columns.required, *([columns.image] if columns.image else [])]
    missing = next((name for name in required if name not in there), None)
    if missing is not None:
        raise UserError(f"{file} has no column '{missing}'{suggestion(missing, there)}")
    return [*required, *(name for name in columns.optional if name in there)]


def _key(files: Sequence[Path], columns: Columns) -> str:
    known = [[str(file.resolve()), _stamp(file)] for file in files]
    said = json.dumps([FORMAT, known, asdict(columns)])
    return hashlib.sha256(said.encode()).hexdigest()[:24]
