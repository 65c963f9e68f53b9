"""Fingerprint of the weights in a folder. Two trials with the same fingerprint ran the same weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

SMALL_WEIGHTS_BYTES = 256 * 2**20
"""Weights up to this size are identified by their content, larger ones by file names, sizes and modification times."""


def folder_fingerprint(folder: Path, suffixes: frozenset[str]) -> str:
    """Sixteen hexadecimal digits of a SHA-256 over the files with these suffixes.

    A copy of a small checkpoint has the same fingerprint. Large checkpoints are not read, so a copy has another one.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    known = [(path.name, path.stat()) for path in files]
    state = tuple((name, status.st_size, status.st_mtime_ns) for name, status in known)
    return _digest(folder, state, tuple((status.st_ctime_ns, status.st_ino) for _, status in known))


@lru_cache(maxsize=16)
def _digest(folder: Path, state: tuple[tuple[str, int, int], ...], replaced: tuple[tuple[int, int], ...]) -> str:
    # ``replaced`` is part of the cache key only: a file with its old size and time put back is read again.
    digest = hashlib.sha256()
    by_content = sum(size for _, size, _ in state) <= SMALL_WEIGHTS_BYTES
    for name, size, modified in state:
        digest.update(f"{name}:{size}".encode())
        digest.update((folder / name).read_bytes() if by_content else str(modified).encode())
    return digest.hexdigest()[:16]
