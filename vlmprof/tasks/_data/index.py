"""The index of a split: its rows with the size of every picture, built once and cached as Parquet.

Building it reads the headers of all pictures, hence all files. The cached index is keyed by the content of the files,
so that later processes start without reading the pictures again. It holds the columns that a task needs, but not the
pictures. Pictures in files of their own have a digest of their content and a hint when to compute it again
(``tasks._data.identity``): whenever an index is read, every such file is looked at, and one that was replaced, deleted
or put in place is read anew. A cache that cannot be used is done without.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprof.errors import NO_TEXT, UserError, as_text, as_written, suggestion
from vlmprof.file_identity import content_digest, fingerprint, hint_of, read_with_hint
from vlmprof.local_cache import cache_folder, do_without, read_cached, write_cached
from vlmprof.records import Picture
from vlmprof.regular_files import open_regular
from vlmprof.tasks._data.decode import MOST_ENCODED_BYTES, RULES, described, examine
from vlmprof.tasks._data.pictures import StoredPicture, digest_of, image_bytes, key_of

FORMAT = 2
"""Increase when older index files can no longer be read."""
BATCH_ROWS = 64
"""Rows whose pictures are in memory at the same time."""
MANY_PICTURES, RECHECK_AFTER = 1_000, 10
"""So many pictures in files of their own are looked at again after this many times as long as the look has taken."""
INDEXES_IN_MEMORY = 4
MOST_BYTES_OF_LINES, MOST_BYTES_OF_JSON = 64 * 2**30, 2 * 2**30
"""Of a JSONL file, which is read line by line, and of a JSON file, which is read as a whole."""
MOST_CHARACTERS_OF_LINE = 64 * 2**20
_SHOWN = 120
"""Characters of a name that a message shows: base64 in place of a path may be megabytes long."""
_SCHEMA = pa.schema(
    [
        ("values", pa.string()),
        ("name", pa.string()),
        ("path", pa.string()),
        ("digest", pa.string()),
        ("hint", pa.string()),
        ("column", pa.string()),
        ("group", pa.int32()),
        ("row", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fault", pa.string()),
        ("where", pa.string()),
    ]
)
_FACTS = ("digest", "hint", "width", "height", "frames", "fault")
"""What is known of a picture in a file of its own."""
Entry = dict[str, Any]
"""A row of the index."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRow:
    """One row: the columns that the task reads, and its picture."""

    values: Mapping[str, Any]
    picture: Picture
    identity: str
    """Identity of the picture: a digest of its bytes, or its path in the row."""
    where: str = ""
    """The file and the number of the row, counted from 1, for messages."""


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
    return [_indexed(entry) for file in files for entry in _entries(file, columns)]


def revision_of(files: Sequence[Path], columns: Columns, further: Sequence[Path] = ()) -> str:
    """Identity of a task's local data: every byte of its files, and of the pictures that these name.

    Args:
        files: Parquet, JSONL or JSON, with the rows.
        columns: The columns that the task reads.
        further: Other files that the rows are joined with.
    """
    of_files = fingerprint([*files, *further])
    if not columns.image or all(_holds_its_pictures(file, columns.image) for file in files):
        return of_files
    digest, pictures = hashlib.sha256(of_files.encode()), 0
    for file in files:
        for name, of_picture in _named_pictures(file, columns):
            digest.update(f"{name}\0{of_picture}\0".encode())
            pictures += 1
    return f"files-{digest.hexdigest()[:16]}" if pictures else of_files


def _named_pictures(file: Path, columns: Columns) -> Iterator[tuple[str, str]]:
    """(name in the row, digest) of the pictures of a file that are files of their own."""
    try:
        entries = _entries(file, columns)
    except UserError:
        return  # the file is of another layout, or damaged: who reads its rows reports that
    for entry in entries:
        if not entry["column"]:
            yield entry["name"], entry["digest"]


def _holds_its_pictures(file: Path, image: str) -> bool:
    """Whether every picture of a Parquet file is in the file, by its schema and statistics alone."""
    if file.suffix != ".parquet":
        return False
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            kind = table.schema_arrow.field(image).type if image in names else None
            groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    except (OSError, pa.ArrowException):
        return True  # who reads its rows reports that it is damaged
    if kind is None or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    encoded = [chunk.statistics for chunk in chunks if chunk.path_in_schema == f"{image}.bytes"]
    return bool(encoded) and all(known is not None and known.null_count == 0 for known in encoded)


def _entries(file: Path, columns: Columns) -> list[Entry]:
    """The rows of a file, from the cached index where there is one, and their pictures as they are now."""
    index = cache_folder() / "index" / f"{_key(file, columns)}.parquet"
    entries, until = _IN_MEMORY.pop(index, (None, 0.0))
    began = time.monotonic()
    if began >= until:
        entries = _current(index, entries, file, columns)
        files = sum(not entry["column"] for entry in entries)
        until = time.monotonic() + RECHECK_AFTER * (time.monotonic() - began) if files >= MANY_PICTURES else 0.0
    assert entries is not None, "a time is kept only with rows"
    _IN_MEMORY[index] = entries, until
    while len(_IN_MEMORY) > INDEXES_IN_MEMORY:
        del _IN_MEMORY[next(iter(_IN_MEMORY))]
    return entries


_IN_MEMORY: dict[Path, tuple[list[Entry], float]] = {}
"""Cached index -> its rows, and until when their pictures are taken for unchanged, on the monotonic clock."""


def _current(index: Path, known: list[Entry] | None, file: Path, columns: Columns) -> list[Entry]:
    """The rows as they are now; the cached index is written when it is not so."""
    entries = known if known is not None else _cached(index)
    if entries is None:
        entries, changed = list(_scan(file, columns)), True
    else:
        changed = _refresh(entries)
    if changed:
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(entries, schema=_SCHEMA), table)
        write_cached(index, table.getvalue())
    return entries


def _cached(index: Path) -> list[Entry] | None:
    """The rows of a cached index; None where there is none that can be read."""
    content = read_cached(index)
    if content is None:
        return None
    try:
        table = pq.read_table(io.BytesIO(content))
        return table.to_pylist() if table.schema.equals(_SCHEMA) else None
    except (OSError, pa.ArrowException, ValueError) as error:  # written by another version of pyarrow, say
        do_without(index.parent, error)
        return None


def _refresh(entries: Sequence[Entry]) -> bool:
    """Read every picture anew whose file is not as it was, and say whether there was one."""
    fresh: dict[str, Entry] = {}
    for entry in entries:
        if entry["column"]:
            continue
        path = entry["path"]
        if path not in fresh:
            as_it_was = _is_as_it_was(entry)
            fresh[path] = {name: entry[name] for name in _FACTS} if as_it_was else _facts_of_file(path)
    changed = False
    for entry in entries:
        facts = None if entry["column"] else fresh[entry["path"]]
        if facts is not None and any(entry[name] != facts[name] for name in _FACTS):
            entry.update(facts)
            changed = True
    return changed


def _is_as_it_was(entry: Entry) -> bool:
    try:
        hint = hint_of(Path(entry["path"]).stat())
    except (OSError, ValueError):
        return False
    return bool(hint) and hint == entry["hint"]


def _indexed(entry: Entry) -> IndexedRow:
    values = json.loads(entry["values"])
    place = {name: entry[name] for name in ("path", "column", "group", "row", "digest")}
    if not entry["column"]:
        place |= {"group": 0, "row": 0}  # one picture, although several rows name it
    load = StoredPicture(**place, key=key_of(entry["digest"] or f"none-{digest_of(entry['path'].encode())}"))
    picture = Picture(
        width=entry["width"],
        height=entry["height"],
        load=load,
        key=load.key if entry["digest"] else "",
        name=load.name,
        frames=entry["frames"],
        fault=entry["fault"],
    )
    return IndexedRow(values=values, picture=picture, identity=entry["name"], where=entry["where"])


def _scan(file: Path, columns: Columns) -> Iterator[Entry]:
    rows = _parquet_rows if file.suffix == ".parquet" else _json_rows
    known: dict[str, Entry] = {}
    for count, (group, row, values) in enumerate(rows(file, columns), 1):
        cell = values.pop(columns.image, None) if columns.image else None
        place = {"group": group, "row": row, "where": f"{file.name} row {count}"}
        yield {**_index_entry(file, columns.image, cell, values, known), **place}


def _index_entry(file: Path, image: str, cell: Any, values: dict[str, Any], known: dict[str, Entry]) -> Entry:
    """Values and picture of a row. An unreadable picture has size 1 x 1 and a fault; its sample fails."""
    name = _file_name(cell)
    if name:
        path = as_text(str(file.parent / name))
        facts = known[path] = known.get(path) or _facts_of_file(path)
        identity, place = as_text(name), {"path": path, "column": ""}
    else:
        encoded = image_bytes(cell) if cell is not None else b""
        identity = digest_of(encoded) if encoded else ""
        place = {"path": str(file), "column": image}
        facts = {**_facts_of(encoded), "digest": identity, "hint": ""} if image else _NO_PICTURE
    return {"values": json.dumps(values, default=str), "name": identity, **place, **facts}


_NO_PICTURE: Entry = {"digest": "", "hint": "", "width": 1, "height": 1, "frames": 1, "fault": ""}
"""Of rows whose pictures are in separate files, which they are joined with."""


def _facts_of_file(path: str) -> Entry:
    """What is known of a picture in a file of its own, read now."""
    try:
        encoded, hint = read_with_hint(path, MOST_ENCODED_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
            return {
                **_NO_PICTURE,
                "fault": f"{shown}: no file can have so long a name; give a path or bytes, no base64",
            }
        odd = f"; {NO_TEXT} stands for what is no text in its name: rename it" if NO_TEXT in path else ""
        return {**_NO_PICTURE, "fault": f"{described(error, path)}{odd}"}
    return {**_facts_of(encoded, path), "digest": digest_of(encoded), "hint": hint}


def _facts_of(encoded: bytes, name: str = "") -> Entry:
    facts = examine(encoded, name)
    return {"width": facts.width, "height": facts.height, "frames": facts.frames, "fault": facts.fault}


def _file_name(cell: Any) -> str:
    """The path in a cell that holds no bytes, else an empty string.

    Bytes that are there but empty are a fault: by its statistics, such a file holds its pictures, and those that it
    names would not be part of its identity.
    """
    if isinstance(cell, Mapping):
        return "" if cell.get("bytes") or isinstance(cell.get("bytes"), bytes) else str(cell.get("path") or "")
    return cell if isinstance(cell, str) else ""


def _parquet_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    with _damage_told(file), pq.ParquetFile(file) as table:
        names = _columns_to_read(file, columns, table.schema_arrow.names)
        for group in range(table.num_row_groups):
            batches = table.iter_batches(BATCH_ROWS, row_groups=[group], columns=names)
            for row, values in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                yield group, row, values


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """Whatever pyarrow says of a file that is cut or damaged, in a sentence with its name."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is no Parquet file that can be read: {reason[:200]}; copy it again") from None


def _json_rows(file: Path, columns: Columns) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for number, values in enumerate(_objects(file)):
        if not isinstance(values, dict):
            raise UserError(
                f"{file}: expected one JSON object per sample, but number {number + 1} is {as_written(values)}"
            )
        wanted = _columns_to_read(file, columns, list(values))
        yield 0, number, {name: values[name] if name == columns.image else _readable(values[name]) for name in wanted}


def _readable(value: Any) -> Any:
    """A value of JSON with every text as text: JSON can write halves of characters, which no table can hold."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return {as_text(name): _readable(item) for name, item in value.items()} if isinstance(value, dict) else value


def _objects(file: Path) -> Iterator[Any]:
    """The objects of a JSONL file, or of the one list in a JSON file."""
    most = MOST_BYTES_OF_LINES if file.suffix == ".jsonl" else MOST_BYTES_OF_JSON
    try:
        with open_regular(file, most) as raw, io.TextIOWrapper(raw, encoding="utf-8") as stream:
            if file.suffix == ".jsonl":
                yield from (json.loads(line) for line in _lines(stream) if line.strip())
                return
            document = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {_reason(error)}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    candidates = document.values() if isinstance(document, dict) else [document]
    lists = [value for value in candidates if isinstance(value, list)]
    if len(lists) != 1:
        raise UserError(f"{file}: expected a list of samples, or an object that contains exactly one list")
    yield from lists[0]


def _lines(stream: io.TextIOWrapper) -> Iterator[str]:
    while line := stream.readline(MOST_CHARACTERS_OF_LINE + 1):
        if len(line) > MOST_CHARACTERS_OF_LINE:
            raise ValueError(f"a line has more than {MOST_CHARACTERS_OF_LINE:,} characters")
        yield line


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _columns_to_read(file: Path, columns: Columns, available: Sequence[str]) -> list[str]:
    """The required columns, and the optional ones that the file has."""
    required = [*columns.required, *([columns.image] if columns.image else [])]
    missing = next((name for name in required if name not in available), None)
    if missing is not None:
        raise UserError(f"{file} has no column '{missing}'{suggestion(missing, available)}")
    return [*required, *(name for name in columns.optional if name in available)]


def _key(file: Path, columns: Columns) -> str:
    # The place as it is named, not as links resolve: pictures are looked for beside it, and one file that two folders
    # link to names the pictures of each. A relative place leads elsewhere from another working folder.
    place = [str(file), str(file.absolute()), str(file.resolve())]
    content = json.dumps([FORMAT, RULES, place, content_digest(file), asdict(columns)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]
