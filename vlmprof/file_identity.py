"""Identity of files by their content, at the cost of a look at their metadata where nothing has changed.

The content hash is the truth. Size, times of modification and of status change (both in ns) and the inode are a hint: a
file whose four are as they were when it was hashed is not hashed again. The time of status change cannot be set by a
user, so that a file that is replaced with size and modification time put back is seen. A file that has changed within
``SETTLED_NS`` gets no hint, because a second change could carry the same times.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from vlmprof.local_cache import cache_folder, write_cached

SETTLED_NS = 2_000_000_000
"""The coarsest clock of a file system in use has steps of two seconds."""
_SAMPLED_BYTES = 2**20
_WHOLE_BYTES = 2 * _SAMPLED_BYTES
"""Up to this size the first and the last MiB are the whole file."""


def fingerprint(files: Sequence[Path]) -> str:
    """Identity of local files by name and content, every byte of it; a copy in another folder has the same one."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        if size > _WHOLE_BYTES:
            digest.update(content_digest(file).encode())
            continue
        # The beginning and the end, as identities were made before larger files were read as a whole: those of small
        # files stay what they were.
        content = file.read_bytes()
        digest.update(content[:_SAMPLED_BYTES])
        digest.update(content[max(size - _SAMPLED_BYTES, 0) :])
    return f"files-{digest.hexdigest()[:16]}"


def kind_of(path: Path) -> str:
    """What a path is, in words: ``a folder``, ``a named pipe``, ``a link to /x, where nothing is``, ``nothing``."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return f"a link to {path.readlink()}, where nothing is" if path.is_symlink() else "nothing"
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for matches, name in kinds if matches(mode)), "a device")


def content_digest(file: Path) -> str:
    """The sha256 of a file; that of a large one is kept, and computed again when its hint has changed."""
    if known := kept_digest(file):
        return known
    hint = hint_of(file.stat())
    digest = _hashed(file)
    if hint and file.stat().st_size > _WHOLE_BYTES:
        write_cached(_place_of(file), json.dumps({"hint": hint, "sha256": digest}).encode())
    return digest


def kept_digest(file: Path) -> str:
    """The sha256 of a file if it is known without reading the file; else empty."""
    hint = hint_of(file.stat())
    try:
        record = json.loads(_place_of(file).read_bytes())
        return str(record["sha256"]) if hint and record["hint"] == hint else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the cache is optional: the file is hashed


def _place_of(file: Path) -> Path:
    return cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.json"


def hint_of(status: os.stat_result) -> str:
    """Size, times in ns and inode of a file; empty while it is too young for its times to tell changes apart."""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def read_with_hint(path: str) -> tuple[bytes, str]:
    """The bytes of a regular file, and its hint from before they were read.

    Raises:
        OSError: there is no such file, it cannot be read, or it is a folder, a device or a pipe.
    """
    with open(path, "rb", opener=_open_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        return stream.read(), hint_of(status)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
