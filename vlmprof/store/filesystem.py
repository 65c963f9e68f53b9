"""``ResultsFolder``: a results folder on any file system of pyarrow's, and the few operations done in it.

Two kinds of file systems hold a sweep. A **mounted** one (a local disk, NFS) has rename and fsync: an object is written
to a temporary name, fsynced, renamed, and its folder fsynced. An **object store** (S3, GCS, Azure) has neither, and
needs neither: an object is there whole once its PUT has been answered, and nothing of it before. What is asked of an
object store is that a read or a listing that begins after a PUT was answered sees it; S3, GCS and Azure all promise it.

``seen_by_other_hosts`` reads the kernel's list of mounts. A lock of the kernel keeps out every process of its own host,
and on a disk of that host there is nobody else. On anything else (NFS, Lustre, CephFS, a FUSE mount) a lock may be
unknown to other hosts, so it is not relied upon.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias, final

import pyarrow as pa
from pyarrow import fs

from vlmprof.errors import StoreError
from vlmprof.job import storage

PARTIAL = ".partial"
"""How the temporary names of a mounted file system end; readers pass over them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsFolder:
    """A results folder. Names inside it are relative and have forward slashes, such as ``trials/x.parquet``."""

    name: str
    """As messages call it: the path, or the URI."""
    files: fs.FileSystem
    root: str
    """The folder within ``files``."""
    folder: Path | None = None
    """The folder, where it is on a mounted file system."""

    @property
    def shared(self) -> bool:
        """Whether other hosts may write here too, so that no lock of this host's kernel keeps them out."""
        return self.folder is None or seen_by_other_hosts(self.folder)

    def __str__(self) -> str:
        return self.name

    @property
    def absolute(self) -> str:
        """What ``results_folder`` makes the same place of, from any working directory."""
        return self.name if self.folder is None else self.root

    def address(self, name: str) -> str:
        """The path or URI of an object, for people; what a URI asks of its store (``?region=``) is left out."""
        base = self.name.partition("?")[0] if self.folder is None else self.name
        return f"{base.rstrip('/')}/{name}"

    def path(self, name: str) -> str:
        """The path of an object within ``files``."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """A whole object; None where there is none."""
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            with self.files.open_input_stream(self.path(name)) as stream:
                data: bytes = stream.read()
            return data
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write an object, whole or not at all; on disk when this returns.

        Raises:
            OSError: it cannot be written; what was there before is still there.
        """
        if self.folder is None:
            self._put(name, data)
        else:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, data)

    def rewrite(self, name: str, data: bytes) -> None:
        """Write an object that may be lost with the machine, whole or not at all; its folder must be there."""
        if self.folder is None:
            self._put(name, data)
        else:
            replace(self.folder / name, data, durable=False)

    def names(self, folder: str) -> dict[str, int]:
        """The objects right in a folder, by name, with their sizes in bytes; empty where there is no such folder."""
        if self.folder is not None:
            return _sizes(self.folder / folder)
        found = self.files.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return {info.base_name: info.size for info in found if info.is_file}

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
        # One write and one close: an exception between them would make half an object whole.
        path = self.path(name)
        try:
            stream = self.files.open_output_stream(path)
        except FileNotFoundError:  # a file system with real folders behind an interface that has no rename
            self.files.create_dir(str(PurePosixPath(path).parent), recursive=True)
            stream = self.files.open_output_stream(path)
        stream.write(data)
        stream.close()


Where: TypeAlias = str | Path | ResultsFolder
"""How callers may name a results folder: a path, a URI, or what ``results_folder`` made of it."""


def results_folder(where: Where) -> ResultsFolder:
    """The place that a path or a URI names. Nothing is made yet; S3 is asked for a bucket's region if no one says it.

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
        path: Its folder has to be there: one that was taken away is not made anew.
        data: The whole content.
        durable: False leaves the fsyncs out, for what may be lost with the machine: still whole or not at all.
    """
    # A name of its own: a writer that lost the folder may still be at work on the same object.
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
    """Make the names in a folder survive a loss of power."""
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
    """Of a file; None of what is none, or was renamed or removed since it was listed: the others are there."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except FileNotFoundError:
        return None


MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = "bcachefs btrfs exfat ext2 ext3 ext4 f2fs jfs nilfs2 ntfs3 overlay ramfs reiserfs tmpfs ufs vfat xfs zfs"
OF_ONE_HOST = frozenset(_LOCAL.split(" "))
"""Types of file systems that one kernel alone writes to; any other type is taken for shared."""


def seen_by_other_hosts(folder: Path) -> bool:
    """Whether the file system of a folder, or of what is there of its path, may be mounted elsewhere too."""
    if not MOUNTS.is_file():
        return False  # no Linux: the disk of a laptop
    path = folder.absolute().resolve()
    mounts = dict(_mounts(MOUNTS.read_text(encoding="utf-8", errors="replace")))
    kinds = [mounts[parent] for parent in (path, *path.parents) if parent in mounts]
    return bool(kinds) and kinds[0] not in OF_ONE_HOST


def _mounts(text: str) -> Iterator[tuple[Path, str]]:
    # Fields as in proc(5): the fifth is the mount point, the first after the lone hyphen is the type.
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        yield Path(_unescaped(before.split(" ")[4])), after.split(" ")[0]


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
