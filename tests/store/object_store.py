"""A small object store behind pyarrow's interface: what is promised of S3, GCS and Azure, and nothing more.

An object is there, whole, once its PUT has ended, and nothing of it before. There is no rename, no append and no
folder. Reads and listings see every PUT that has ended before them. Unlike pyarrow's own mock it can be used by
several threads, and it counts its requests.
"""

from __future__ import annotations

import io
from collections import Counter
from threading import Lock

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem


class Put(io.BytesIO):
    """A PUT under way: kept when it is closed."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def close(self) -> None:
        if not self.closed:
            self._store.keep(self._path, self.getvalue())
        super().close()


class ObjectStore(FileSystemHandler):
    """One bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self._lock = Lock()

    def files(self) -> PyFileSystem:
        """It, as pyarrow's file system."""
        return PyFileSystem(self)

    def keep(self, path: str, data: bytes) -> None:
        with self._lock:
            self.requests["put"] += 1
            self.objects[path] = data

    def open_output_stream(self, path, metadata):
        return pa.PythonFile(Put(self, path), mode="w")

    def open_input_stream(self, path):
        with self._lock:
            self.requests["get"] += 1
            if path not in self.objects:
                raise FileNotFoundError(path)
            return pa.PythonFile(io.BytesIO(self.objects[path]), mode="r")

    open_input_file = open_input_stream

    def get_file_info_selector(self, selector: FileSelector):
        prefix = selector.base_dir.rstrip("/") + "/"
        with self._lock:
            self.requests["list"] += 1
            found = [FileInfo(path, FileType.File, size=len(data)) for path, data in self.objects.items()]
        return [info for info in found if info.path.startswith(prefix) and "/" not in info.path[len(prefix) :]]

    def delete_file(self, path):
        with self._lock:
            self.requests["delete"] += 1
            if self.objects.pop(path, None) is None:
                raise FileNotFoundError(path)

    def get_type_name(self):
        return "objects"

    def normalize_path(self, path):
        return path

    def _absent(self, *_):
        raise NotImplementedError("an object store has no such thing")

    append = open_append_stream = move = copy_file = create_dir = delete_dir = _absent
    delete_dir_contents = delete_root_dir_contents = get_file_info = _absent
