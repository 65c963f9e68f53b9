"""Pictures in files: the size is read from the header alone, and the pixels are decoded once.

A ``StoredPicture`` holds the location of its encoded bytes: an image file, or a cell of a Parquet file. Calling it
returns the RGB image, with the camera's rotation applied. Decoded pictures are kept in the cache
(``tasks._data.cache``), so that later configurations need not decode them again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprof.errors import UserError
from vlmprof.tasks._data.cache import PixelCache

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION_TAG, _TRANSPOSED = 274, frozenset({5, 6, 7, 8})
"""The EXIF orientation tag, and those of its values that swap width and height."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """The location of an encoded picture; ``tasks._data.decoder`` receives it as JSON."""

    path: str
    """An image file, or a Parquet file."""
    key: str
    """Identity of the encoded bytes; the cache key of the decoded picture."""
    column: str = ""
    """Column of the Parquet file; empty for an image file."""
    group: int = 0
    """Row group of the Parquet file."""
    row: int = 0
    """Row within the group."""

    def __call__(self) -> Image:
        """The RGB image, from the cache or else decoded and cached.

        Raises:
            OSError: the file does not exist, or is not a picture.
        """
        cache = PixelCache.default()
        cached = cache.get(self.key)
        return cached if cached is not None else cache.put(self.key, self.decode())

    def decode(self) -> Image:
        """The RGB image, decoded without the cache.

        Raises:
            OSError: the file does not exist, or is not a picture.
        """
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(self.encoded())) as image:
            upright = ImageOps.exif_transpose(image) if _orientation(image) else image
            return upright.convert("RGB")

    def encoded(self) -> bytes:
        """The encoded bytes: the file's, or the cell's."""
        if not self.column:
            return Path(self.path).read_bytes()
        cell = _group(self.path, self.group, self.column)[self.row].as_py()
        return image_bytes(cell)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, to send to another process."""
        return asdict(self)


def header_size(encoded: bytes | Path) -> tuple[int, int]:
    """(width, height) after the camera's rotation is applied, read without decoding the picture.

    Raises:
        OSError: it is not a picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _TRANSPOSED else (width, height)


def _orientation(image: Image) -> int | None:
    """The EXIF orientation from the header; None when the header has none."""
    if image.format == "PNG" and "exif" not in image.info:
        return None  # Pillow would decode the whole picture to search for EXIF data after the pixels
    orientation = image.getexif().get(_ORIENTATION_TAG)
    return orientation if isinstance(orientation, int) else None


def image_bytes(cell: Any) -> bytes:
    """The encoded picture of a cell: bytes, or the struct of bytes and path that files of the Hub hold.

    Empty when the cell has no picture.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""


@lru_cache(maxsize=2)
def _group(path: str, group: int, column: str) -> pa.ChunkedArray:
    # Consecutive requests mostly fall into the same row group; keeping only two limits the memory.
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise UserError(f"{path} no longer has a column '{column}'")
        return file.read_row_group(group, columns=[column]).column(0)
