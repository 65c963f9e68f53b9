"""The cache of decoded pictures: one memory-mapped Arrow file per picture, in a folder of limited size.

A picture whose pixels compress well (a page of text) is stored with LZ4 compression. Any other is stored uncompressed,
so that reading it copies nothing: the image uses the mapped file as its buffer. Several processes may write at the same
time: files are renamed into place when complete, and equal keys hold equal pixels. When the folder exceeds its size
limit, the least recently used files are deleted; a process that has one of them mapped can still read it.

The cache is optional. Where its folder is full, read-only, damaged or not there, pictures are decoded instead, and one
line of the log says so. A file whose pixels are not those that were written is deleted, never used.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final

import pyarrow as pa

from vlmprof.local_cache import cache_folder, do_without

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT_VARIABLE = "VLMPROF_CACHE_GIB"
DEFAULT_GIB = 8.0
MAX_COMPRESSED_SHARE = 0.7
"""A picture is stored compressed when compression reduces it to at most this share of its size."""
_PROBE_BYTES = 2**18
"""Bytes of a picture that are compressed to estimate how well the whole compresses."""
_SCHEMA = pa.schema(
    [("width", pa.int32()), ("height", pa.int32()), ("pixels", pa.large_binary()), ("crc32", pa.uint32())]
)


@final
class PixelCache:
    """Decoded pictures by key, on disk."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """The folder is created when the first picture is stored.

        Args:
            folder: Folder of the files; shared by all processes of a machine.
            limit_bytes: Maximum total size of the files; 0 stores nothing.
        """
        self._folder, self._limit_bytes = folder, limit_bytes
        self._used_bytes: int | None = None

    @staticmethod
    def default() -> PixelCache:
        """The cache that the environment variables configure at the time of the call."""
        return _cache(str(cache_folder() / "pictures"), os.environ.get(LIMIT_VARIABLE, str(DEFAULT_GIB)))

    def __contains__(self, key: str) -> bool:
        try:
            return self._path(key).is_file()
        except OSError:  # a folder that cannot be looked into
            return False

    def get(self, key: str) -> Image | None:
        """The picture, or None when it is not in the cache, or not as it was written."""
        path = self._path(key)
        try:
            image = _read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # whatever a damaged file makes of its reader
            do_without(self._folder, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # deleted by another process to free space, or read-only: the mapping stays valid
            os.utime(path)  # mark it as recently used
        return image

    def put(self, key: str, image: Image) -> Image:
        """Store an RGB picture unless it alone exceeds the size limit, or cannot be stored; returns the picture."""
        pixels = image.tobytes()
        if len(pixels) > self._limit_bytes:
            return image
        try:
            self._store(key, image.size, pixels)
        except (OSError, pa.ArrowException) as error:
            do_without(self._folder, error)
        return image

    def _store(self, key: str, size: tuple[int, int], pixels: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        written = self._write(key, size, pixels)
        if self._used_bytes is None:
            self._used_bytes = sum(size for _, size, _ in self._entries())
        else:
            self._used_bytes += written
        if self._used_bytes > self._limit_bytes:
            self._used_bytes = self._evict()

    def _write(self, key: str, size: tuple[int, int], pixels: bytes) -> int:
        options = pa.ipc.IpcWriteOptions(compression="lz4" if _compresses(pixels) else None)
        columns = [[size[0]], [size[1]], pa.array([pixels], pa.large_binary()), [zlib.crc32(pixels)]]
        batch = pa.record_batch(columns, schema=_SCHEMA)
        partial = self._path(f"{key}.{os.getpid()}.partial")
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA, options=options) as writer:
                writer.write_batch(batch)
            written = partial.stat().st_size
            partial.replace(self._path(key))
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        return written

    def _evict(self) -> int:
        """Delete the least recently used files until a tenth of the limit is free; returns the bytes still in use."""
        entries = self._entries()
        used_bytes = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if used_bytes <= 0.9 * self._limit_bytes:
                break
            Path(path).unlink(missing_ok=True)
            used_bytes -= size
        return used_bytes

    def _entries(self) -> list[tuple[int, int, str]]:
        """(time of last use, bytes, path) of every file in the folder."""
        entries = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):  # another process evicts files at the same time
                entries.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        return entries

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.arrow"


def _read(path: Path) -> Image:
    """The picture in a file.

    Raises:
        ValueError: its pixels are not those that were written.
    """
    from PIL import Image

    if not stat.S_ISREG(path.stat().st_mode):  # mapping a pipe would wait for a writer
        raise ValueError(f"{path} is no file")
    with pa.memory_map(str(path)) as source:
        row = pa.ipc.open_file(source).get_batch(0)
    width, height, pixels, crc32 = (row.column(name)[0] for name in _SCHEMA.names)
    size, buffer = (width.as_py(), height.as_py()), pixels.as_buffer()
    if buffer.size != 3 * size[0] * size[1] or zlib.crc32(buffer) != crc32.as_py():
        raise ValueError(f"{path} is damaged")
    return Image.frombuffer("RGB", size, buffer, "raw", "RGB", 0, 1)


def _compresses(pixels: bytes) -> bool:
    """Whether a piece from the middle compresses well, as an estimate for the whole picture."""
    start = max(len(pixels) // 2 - _PROBE_BYTES // 2, 0)
    piece = pixels[start : start + _PROBE_BYTES]
    return len(pa.compress(piece, codec="lz4", asbytes=True)) <= MAX_COMPRESSED_SHARE * len(piece)


@lru_cache(maxsize=4)
def _cache(folder: str, gib: str) -> PixelCache:
    return PixelCache(Path(folder), int(_limit_gib(gib) * 2**30))


def _limit_gib(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if math.isfinite(limit) and limit >= 0:
        return limit
    said = "%s is %r, which is no number of GiB; %g is used"
    logging.getLogger("vlmprof").warning(said, LIMIT_VARIABLE, text, DEFAULT_GIB)
    return DEFAULT_GIB
