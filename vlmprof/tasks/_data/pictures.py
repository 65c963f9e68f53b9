"""Pictures that lie in files: their size from the header alone, their pixels once.

A ``StoredPicture`` picture knows where its encoded bytes are: an image file, or a cell of a Parquet file. Called, it
gives the RGB image, turned as its camera says. What was decoded is kept in the cache (``tasks._data.cache``), so that
the next configuration decodes nothing.
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

_ORIENTATION, _TURNED = 274, frozenset({5, 6, 7, 8})
"""The EXIF tag of a camera's rotation, and its values that swap width and height."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """Where a picture lies."""

    path: str
    """An image file, or a Parquet file."""
    key: str
    """Identity of the encoded bytes, by which the decoded picture is cached."""
    column: str = ""
    """Column of the Parquet file; empty for an image file."""
    group: int = 0
    """Row group of the Parquet file."""
    row: int = 0
    """Row inside its group."""

    def __call__(self) -> Image:
        """The RGB image: from the cache, or decoded and put there.

        Raises:
            OSError: there is no such file, or it is no picture.
        """
        cache = PixelCache.default()
        found = cache.get(self.key)
        return found if found is not None else cache.put(self.key, self.decode())

    def decode(self) -> Image:
        """The RGB image, decoded now.

        Raises:
            OSError: as for a call.
        """
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(self.encoded())) as image:
            turned = ImageOps.exif_transpose(image) if _orientation(image) else image
            return turned.convert("RGB")

    def encoded(self) -> bytes:
        """The bytes of the file or of the cell."""
        if not self.column:
            return Path(self.path).read_bytes()
        cell = _group(self.path, self.group, self.column)[self.row].as_py()
        return image_bytes(cell)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)


def header_size(encoded: bytes | Path) -> tuple[int, int]:
    """(width, height) as the picture will have once it is turned, without decoding it.

    Raises:
        OSError: it is no picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _TURNED else (width, height)


def _orientation(image: Image) -> int | None:
    """The camera's rotation, as far as the header tells it; None where it tells none."""
    if image.format == "PNG" and "exif" not in image.info:
        return None  # asked for it, Pillow would decode the whole picture to look behind it
    found = image.getexif().get(_ORIENTATION)
    return found if isinstance(found, int) else None


def image_bytes(cell: Any) -> bytes:
    """The encoded picture of a cell: bytes, or the pair of bytes and a name that the Hub's files hold.

    Empty where the cell holds none.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""


@lru_cache(maxsize=2)
def _group(path: str, group: int, column: str) -> pa.ChunkedArray:
    # Neighbours are asked for next to each other more often than not; two groups bound the memory.
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise UserError(f"{path} has no column '{column}' any more")
        return file.read_row_group(group, columns=[column]).column(0)
