"""Fingerprint of the files of a checkpoint. Two trials with the same fingerprint ran the same weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from vlmprof.file_identity import content_digest, hint_of, kept_digest
from vlmprof.regular_files import read_regular

SMALL_WEIGHTS_BYTES = 256 * 2**20
"""Up to this size the contents are hashed together; of larger checkpoints the hash of each file, which is kept."""
LONG_BYTES = 4 * 2**30
"""Reading more than this takes long enough to be told."""
_AT_ONCE = 8
"""Files that are hashed at the same time: disks read faster than one thread hashes."""


def folder_fingerprint(
    folder: Path, suffixes: frozenset[str], *, further: Sequence[Path] = (), unused: frozenset[str] = frozenset()
) -> str:
    """Sixteen hexadecimal digits of a SHA-256 over names and contents of the files with these suffixes.

    A copy has the same fingerprint. A large checkpoint is read once on a machine, and a file of it again when its size,
    times or inode have changed.

    Args:
        folder: The checkpoint.
        suffixes: Of the files directly in it.
        further: Files in folders inside it.
        unused: Names of files that are left out.
    """
    top = (path for path in folder.iterdir() if path.suffix in suffixes and path.name not in unused)
    files = tuple(sorted({*(path for path in top if not path.is_dir()), *further}))
    hints = tuple(hint_of(path.stat()) for path in files)
    # Files that are too young for their times to tell changes apart are read again.
    return _remembered(folder, files, hints) if all(hints) else _digest(folder, files)


@lru_cache(maxsize=16)
def _remembered(folder: Path, files: tuple[Path, ...], hints: tuple[str, ...]) -> str:
    return _digest(folder, files)


def _digest(folder: Path, files: tuple[Path, ...]) -> str:
    sizes = [path.stat().st_size for path in files]
    small = sum(sizes) <= SMALL_WEIGHTS_BYTES
    contents = [read_regular(path, SMALL_WEIGHTS_BYTES) for path in files] if small else _digests(files)
    digest = hashlib.sha256()
    for path, size, content in zip(files, sizes, contents, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _digests(files: tuple[Path, ...]) -> list[bytes]:
    unread = sum(path.stat().st_size for path in files if not kept_digest(path))
    if unread > LONG_BYTES:
        gigabytes, folder = unread / 1e9, files[0].parent
        said = "reading %.0f GB in %s to identify the weights; once on this machine, as long as they do not change"
        logging.getLogger("vlmprof").warning(said, gigabytes, folder)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return [digest.encode() for digest in threads.map(content_digest, files)]
