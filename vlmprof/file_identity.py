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

from vlmprof.local_cache import cache_folder, read_cached, write_cached
from vlmprof.regular_files import json_object, open_regular, read_at_most, read_regular

SETTLED_NS = 2_000_000_000
"""The coarsest clock of a file system in use has steps of two seconds."""
MOST_BYTES = 2**40
"""Larger than any single file of weights or data; reading a sparse file of that size would take hours."""
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
        content = read_regular(file, _WHOLE_BYTES)
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
    record = json_object(read_cached(_place_of(file)) or b"")
    return str(record.get("sha256", "")) if hint and record.get("hint") == hint else ""


def _place_of(file: Path) -> Path:
    return cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.json"


def hint_of(status: os.stat_result) -> str:
    """Size, times in ns and inode of a file; empty while it is too young for its times to tell changes apart."""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def read_with_hint(path: str, most_bytes: int) -> tuple[bytes, str]:
    """The bytes of a regular file, and its hint from before they were read; raises as ``open_regular`` does."""
    with open_regular(path, most_bytes) as stream:
        hint = hint_of(os.fstat(stream.fileno()))
        return read_at_most(stream, most_bytes), hint


def _hashed(file: Path) -> str:
    with open_regular(file, MOST_BYTES) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
