"""``ResultsFolder``: a results folder on any file system that pyarrow supports, and the operations used in it.

Two kinds of file systems hold a sweep. A **mounted** one (a local disk, NFS) has rename and fsync: an object is written
to a temporary name, fsynced, renamed, and its folder fsynced. An **object store** (S3, GCS, Azure) has neither, and
needs neither: an object appears completely once its PUT has been answered, and no part of it before. An object store
must guarantee that a read or a listing that begins after a PUT was answered sees the object; S3, GCS and Azure do.

``seen_by_other_hosts`` reads the kernel's list of mounts. A file lock of the kernel excludes every other process of the
same host, which is enough on a local disk. On anything else (NFS, Lustre, CephFS, a FUSE mount) other hosts may not see
the lock, so it is not relied upon.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias, final

import pyarrow as pa
from pyarrow import fs

from vlmprof.errors import StoreError
from vlmprof.job import storage
from vlmprof.regular_files import read_regular

MOST_BYTES = 2**34
"""More than the ledger of any sweep."""
PARTIAL = ".partial"
"""Suffix of temporary names on a mounted file system; readers skip them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFolder:
    """A results folder. Names inside it are relative and have forward slashes, such as ``trials/x.parquet``."""

    name: str
    """The path or the URI, as shown in messages."""
    files: fs.FileSystem
    root: str
    """The folder within ``files``."""
    folder: Path | None = None
    """The folder's path, if it is on a mounted file system."""

    @property
    def shared(self) -> bool:
        """Whether other hosts may write here too, which a file lock of this host does not exclude."""
        return self.folder is None or seen_by_other_hosts(self.folder)

    def __str__(self) -> str:
        return self.name

    @property
    def absolute(self) -> str:
        """A name that ``results_folder`` resolves to the same folder from any working directory."""
        return self.name if self.folder is None else self.root

    def address(self, name: str) -> str:
        """The path or URI of an object, for people; without the query of a URI (``?region=``)."""
        base = self.name.partition("?")[0] if self.folder is None else self.name
        return f"{base.rstrip('/')}/{name}"

    def path(self, name: str) -> str:
        """The path of an object within ``files``."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str, most_bytes: int = MOST_BYTES) -> bytes | None:
        """The content of an object; None if it does not exist.

        Raises:
            OSError: it cannot be read; on a mounted file system also for what is no file, or is larger.
        """
        try:
            if self.folder is not None:
                return read_regular(self.folder / name, most_bytes)
            with self.files.open_input_stream(self.path(name)) as stream:
                data: bytes = stream.read()
            return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write an object, completely or not at all; on disk when this returns.

        Raises:
            OSError: it cannot be written; an earlier object of this name is unchanged.
        """
        if self.folder is None:
            self._put(name, data)
        else:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, data)

    def rewrite(self, name: str, data: bytes) -> None:
        """Like ``write``, but without fsync: a power failure may lose the object. Its folder must exist."""
        if self.folder is None:
            self._put(name, data)
        else:
            replace(self.folder / name, data, durable=False)

    def names(self, folder: str) -> dict[str, int]:
        """The objects directly in a folder: name -> size in bytes; empty if the folder does not exist."""
        if self.folder is not None:
            return _sizes(self.folder / folder)
        infos = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return {info.base_name: info.size for info in infos if info.is_file}

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        """The objects directly in a folder: name -> what changes when the object does, its size and time in ns.

        The time is 0 in an object store that does not tell it.
        """
        if self.folder is None:
            infos = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
            return {info.base_name: (info.size, info.mtime_ns or 0) for info in infos if info.is_file}
        found = {}
        for name in _sizes(self.folder / folder):
            with suppress(FileNotFoundError):  # removed since it was listed
                stat = (self.folder / folder / name).stat()
                found[name] = stat.st_size, stat.st_mtime_ns
        return found

    def remove(self, name: str) -> None:
        """Remove an object; it may be gone already."""
        try:
            if self.folder is not None:
                (self.folder / name).unlink()
            else:
                self.files.delete_file(self.path(name))
        except FileNotFoundError:
            return

    def _put(self, name: str, data: bytes | pa.Buffer) -> None:
        # One write and one close: if an exception came between several writes, close would publish half an object.
        path = self.path(name)
        try:
            stream = self.files.open_output_stream(path)
        except FileNotFoundError:  # a file system with real folders, accessed through an interface without rename
            self.files.create_dir(str(PurePosixPath(path).parent), recursive=True)
            stream = self.files.open_output_stream(path)
        stream.write(data)
        stream.close()


Where: TypeAlias = str | Path | ResultsFolder
"""How callers may name a results folder: a path, a URI, or a ``ResultsFolder``."""


def results_folder(where: Where) -> ResultsFolder:
    """The folder that a path or a URI names. Nothing is created; without a region in the URI, S3 is asked for it.

    Raises:
        StoreError: a URI of an unknown kind, with a password in it, or one that pyarrow cannot read.
    """
    if isinstance(where, ResultsFolder):
        return where
    if isinstance(where, str) and "://" in where:
        return _remote(where)
    folder = Path(where)
    return ResultsFolder(name=str(where), files=fs.LocalFileSystem(), root=str(folder.absolute()), folder=folder)


@lru_cache(maxsize=16)
def _remote(uri: str) -> ResultsFolder:
    if problem := storage.problem(uri):
        raise StoreError(problem)
    try:
        files, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{uri} cannot be opened: {error}") from None
    if isinstance(files, fs.LocalFileSystem):
        return results_folder(Path(root))
    return ResultsFolder(name=uri, files=files, root=root.rstrip("/"))


def replace(path: Path, data: bytes | pa.Buffer, *, durable: bool = True) -> None:
    """Write a file on a mounted file system: data, fsync, rename, fsync of the folder.

    Args:
        path: Its folder must exist: a folder that was deleted is not created again.
        data: The whole content.
        durable: False skips the fsyncs: a power failure may lose the file, but a reader still sees all of it or none.
    """
    # A unique name: a writer that lost the folder may still be writing the same object.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that the names in it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            sizes = {entry.name: _size(entry) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: size for name, size in sizes.items() if size is not None}


def _size(entry: os.DirEntry[str]) -> int | None:
    """Size of a file; None if it is not a file, or was renamed or removed since it was listed."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except FileNotFoundError:
        return None


MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = "bcachefs btrfs exfat ext2 ext3 ext4 f2fs jfs nilfs2 ntfs3 overlay ramfs reiserfs tmpfs ufs vfat xfs zfs"
LOCAL_TYPES = frozenset(_LOCAL.split(" "))
"""Types of file systems that only one kernel writes to; any other type counts as shared."""


def seen_by_other_hosts(folder: Path) -> bool:
    """Whether the file system of a folder, or of its nearest existing parent, may be mounted on other hosts too."""
    if not MOUNTS.is_file():
        return False  # not Linux: taken for a local disk
    path = folder.absolute().resolve()
    mounts = dict(_mounts(MOUNTS.read_text(encoding="utf-8", errors="replace")))
    kinds = [mounts[parent] for parent in (path, *path.parents) if parent in mounts]
    return bool(kinds) and kinds[0] not in LOCAL_TYPES


def _mounts(text: str) -> Iterator[tuple[Path, str]]:
    # Fields as in proc(5): the fifth is the mount point, the first after the lone hyphen is the type.
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        yield Path(_unescape(before.split(" ")[4])), after.split(" ")[0]


def _unescape(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)
