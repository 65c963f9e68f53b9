"""What is kept on this machine to save work: pictures, indexes, digests. All of it can be computed again.

A derived file is never trusted: it ends with a digest of what stands before, and one that does not match, such as what
a power cut leaves, is made again. Written with ``write_cached``, read with ``read_cached``.

A cache is optional: where its folder is full, read-only or not there, one line of the log says so and nothing fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from vlmprof.regular_files import read_regular

FOLDER_VARIABLE = "VLMPROF_CACHE"


def cache_folder() -> Path:
    """``$VLMPROF_CACHE``, or ``vlmprof`` in the user's cache folder, or in that of temporary files without a home."""
    configured = os.environ.get(FOLDER_VARIABLE) or os.environ.get("XDG_CACHE_HOME")
    if os.environ.get(FOLDER_VARIABLE):
        return Path(str(configured))
    try:
        return (Path(configured) if configured else Path.home() / ".cache") / "vlmprof"
    except RuntimeError:  # a user without a home folder
        return Path(tempfile.gettempdir()) / f"vlmprof-{os.getuid()}"


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of a cache at once or not at all; where that cannot be done, the cache is done without.

    Raises:
        Nothing: what a cache holds can be computed again.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content + _seal(content))
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        do_without(path.parent, error)


def read_cached(path: Path) -> bytes | None:
    """The content of a derived file; None where there is none, or where it is not as it was written.

    Raises:
        Nothing: what a cache holds can be computed again.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError:
        return None
    content = data[:-_SEAL_BYTES]
    return content if data[-_SEAL_BYTES:] == _seal(content) else None


MOST_BYTES = 4 * 2**30
"""More than the index of any data set."""
_MARK = b"vlmprof1"
_SEAL_BYTES = len(_MARK) + 32


def _seal(content: bytes) -> bytes:
    return _MARK + hashlib.sha256(content).digest()


def do_without(folder: Path, error: Exception, variable: str = FOLDER_VARIABLE) -> None:
    """Log that a cache is not used, once for each folder in a process; ``variable`` names another folder for it."""
    if str(folder) not in _DONE_WITHOUT:
        _DONE_WITHOUT.add(str(folder))
        reason = f"{type(error).__name__}: {error}"
        hint = f"set {variable} to a folder that can be written"
        logging.getLogger("vlmprof").warning("the cache in %s is done without (%s); %s", folder, reason, hint)


_DONE_WITHOUT: set[str] = set()
"""Folders that have been spoken of."""
