"""The cache of decoded pictures: one Arrow file a picture, mapped into memory, in a folder of bounded size.

A picture whose pixels compress well (a page of text) is stored compressed by LZ4, any other plain, so that reading it
copies nothing: the image lies on the mapped file. Writers may be many processes: a file appears whole or not at all,
and equal keys hold equal pixels. When the folder is over its bound, the files that were used longest ago go; a process
that has one of them mapped keeps it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final

import pyarrow as pa

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER, BOUND = "VLMPROF_CACHE", "VLMPROF_CACHE_GIB"
DEFAULT_GIB = 8.0
WORTH_COMPRESSING = 0.7
"""A picture is stored compressed when that takes at most this share."""
_STRETCH_BYTES = 2**18
_SCHEMA = pa.schema([("width", pa.int32()), ("height", pa.int32()), ("pixels", pa.large_binary())])


def cache_folder() -> Path:
    """``$VLMPROF_CACHE``, or ``vlmprof`` in the user's cache folder."""
    told = os.environ.get(FOLDER)
    return Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmprof"


@final
class PixelCache:
    """Decoded pictures by key."""

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        """Nothing is made before the first picture is put.

        Args:
            folder: Where the files lie; shared by all processes of a machine.
            bound_bytes: Most bytes there may be; 0 keeps nothing.
        """
        self._folder, self._bound = folder, bound_bytes
        self._bytes: int | None = None

    @staticmethod
    def default() -> PixelCache:
        """The cache of this process, as the environment says now."""
        return _cache(str(cache_folder() / "pictures"), os.environ.get(BOUND, str(DEFAULT_GIB)))

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> Image | None:
        """The picture, or None where it is not kept."""
        from PIL import Image

        path = self._path(key)
        try:
            with pa.memory_map(str(path)) as source:
                row = pa.ipc.open_file(source).get_batch(0)
        except FileNotFoundError:
            return None
        with suppress(FileNotFoundError):  # another process made room: what is mapped stays
            os.utime(path)  # used now, so that it goes last
        width, height, pixels = (column[0] for column in row.columns)
        size = width.as_py(), height.as_py()
        return Image.frombuffer("RGB", size, pixels.as_buffer(), "raw", "RGB", 0, 1)

    def put(self, key: str, image: Image) -> Image:
        """Keep an RGB picture, where there is room for it; the picture itself comes back."""
        pixels = image.tobytes()
        if len(pixels) > self._bound:
            return image
        self._folder.mkdir(parents=True, exist_ok=True)
        written = self._write(key, image.size, pixels)
        self._bytes = sum(size for _, size, _ in self._entries()) if self._bytes is None else self._bytes + written
        if self._bytes > self._bound:
            self._bytes = self._make_room()
        return image

    def _write(self, key: str, size: tuple[int, int], pixels: bytes) -> int:
        options = pa.ipc.IpcWriteOptions(compression="lz4" if _compresses(pixels) else None)
        batch = pa.record_batch([[size[0]], [size[1]], pa.array([pixels], pa.large_binary())], schema=_SCHEMA)
        partial = self._path(f"{key}.{os.getpid()}.partial")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA, options=options) as writer:
            writer.write_batch(batch)
        written = partial.stat().st_size
        partial.replace(self._path(key))
        return written

    def _make_room(self) -> int:
        """Drop what was used longest ago until a tenth of the bound is free; how much is left."""
        found = self._entries()
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= 0.9 * self._bound:
                break
            Path(path).unlink(missing_ok=True)
            left -= size
        return left

    def _entries(self) -> list[tuple[int, int, str]]:
        """(time of last use, bytes, path) of what there is."""
        found = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):  # another process made room at the same time
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        return found

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.arrow"


def _compresses(pixels: bytes) -> bool:
    """Whether a stretch from the middle compresses well, which says enough of the whole."""
    start = max(len(pixels) // 2 - _STRETCH_BYTES // 2, 0)
    stretch = pixels[start : start + _STRETCH_BYTES]
    return len(pa.compress(stretch, codec="lz4", asbytes=True)) <= WORTH_COMPRESSING * len(stretch)


@lru_cache(maxsize=4)
def _cache(folder: str, gib: str) -> PixelCache:
    return PixelCache(Path(folder), int(float(gib) * 2**30))
