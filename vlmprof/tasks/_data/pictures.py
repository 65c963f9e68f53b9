"""Pictures in files: where their encoded bytes are, and their pixels, from the cache or decoded.

A ``StoredPicture`` holds the location of its encoded bytes: an image file, or a cell of a Parquet file. Calling it
returns the RGB image, by the rules of ``tasks._data.decode``. Decoded pictures are kept in the cache
(``tasks._data.cache``), so that later configurations need not decode them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprof.errors import UserError
from vlmprof.regular_files import read_regular
from vlmprof.tasks._data.cache import PixelCache
from vlmprof.tasks._data.decode import MOST_ENCODED_BYTES, RULES, PictureError, decode, examine

if TYPE_CHECKING:
    from PIL.Image import Image

_DIGITS = 32
"""Hexadecimal digits of a picture's digest."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """The location of an encoded picture; ``tasks._data.decoder`` receives it as JSON."""

    path: str
    """An image file, or a Parquet file."""
    key: str
    """Identity of the pixels: of the encoded bytes and of the rules of decoding; the key in the cache."""
    column: str = ""
    """Column of the Parquet file; empty for an image file."""
    group: int = 0
    """Row group of the Parquet file."""
    row: int = 0
    """Row within the group."""
    digest: str = ""
    """Of the encoded bytes, as ``digest_of`` gives it, when the file was indexed; empty: not held against them."""

    def __call__(self) -> Image:
        """The RGB image, from the cache or else decoded and cached.

        Raises:
            OSError: the file does not exist, has changed since it was indexed, or is not a picture.
        """
        cache = PixelCache.default()
        cached = cache.get(self.key)
        return cached if cached is not None else cache.put(self.key, self.decode())

    def decode(self) -> Image:
        """The RGB image, decoded without the cache.

        Raises:
            OSError: the file does not exist, has changed since it was indexed, or is not a picture.
        """
        encoded = self.encoded()
        if self.digest and digest_of(encoded) != self.digest:
            raise PictureError(f"{self.name}: the file has changed since the task was read; start again")
        return decode(encoded, self.name)

    def encoded(self) -> bytes:
        """The encoded bytes: the file's, or the cell's."""
        if not self.column:
            return read_regular(self.path, MOST_ENCODED_BYTES)
        status = Path(self.path).stat()
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return image_bytes(_group(self.path, self.group, self.column, state)[self.row].as_py())

    @property
    def name(self) -> str:
        """What messages call it: the file, and where there is one the row, counted from 1."""
        return f"{self.path} row group {self.group + 1} row {self.row + 1}" if self.column else self.path

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, to send to another process."""
        return asdict(self)


def header_size(encoded: bytes | Path) -> tuple[int, int]:
    """(width, height) after the camera's rotation is applied, read without decoding the picture.

    Raises:
        OSError: it is not a picture, or one that is refused.
    """
    facts = examine(encoded)
    if facts.fault:
        raise PictureError(facts.fault)
    return facts.width, facts.height


def digest_of(encoded: bytes) -> str:
    """Identity of encoded bytes."""
    return hashlib.sha256(encoded).hexdigest()[:_DIGITS]


def key_of(digest: str) -> str:
    """The key in the cache of the picture with these encoded bytes: other rules of decoding give other keys."""
    return f"{digest}-{RULES}"


def image_bytes(cell: Any) -> bytes:
    """The encoded picture of a cell: bytes, or the struct of bytes and path that files of the Hub hold.

    Empty when the cell has no picture.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""


@lru_cache(maxsize=2)
def _group(path: str, group: int, column: str, state: tuple[int, ...]) -> pa.ChunkedArray:
    # Consecutive requests mostly fall into the same row group; keeping only two limits the memory. ``state`` is part of
    # the cache key because the file may be replaced.
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise UserError(f"{path} no longer has a column '{column}'")
        return file.read_row_group(group, columns=[column]).column(0)
