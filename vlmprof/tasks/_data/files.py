"""Where a task's rows lie: files of a pinned commit on the Hub, or files in a folder of the user's.

Both are the same files, read by the same code: Parquet, JSONL or JSON. Nothing that lies with the data is executed, and
a branch such as ``main``, which can move between two trials, is never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vlmprof.errors import UserError

KINDS = (".parquet", ".jsonl", ".json")
COMMIT_LENGTH = 40
_SAMPLED_BYTES = 2**20
"""From a larger file its size, its beginning and its end decide; the end of a Parquet file describes all of it."""


def local_files(path: Path, patterns: Sequence[str], split: str, download: str) -> tuple[Path, ...]:
    """The files of a split under a path of the user's, sorted.

    Args:
        path: A file, or a folder that holds either the repository's own layout or files named after the split.
        patterns: Globs of the repository's layout.
        split: Name of the split.
        download: How to get the data, for the error.

    Raises:
        UserError: nothing is there; it says what was looked for and how to get it.
    """
    if path.is_file():
        return (path,)
    named = [f"{split}*{kind}" for kind in KINDS]
    for pattern in (*patterns, *named, *(f"data/{name}" for name in named)):
        found = tuple(sorted(file for file in path.glob(pattern) if file.suffix in KINDS))
        if found:
            return found
    wanted = " or ".join(dict.fromkeys([*patterns, f"{split}*.parquet", f"{split}*.jsonl"]))
    missing = f"there is no file {wanted} in {path}" if path.is_dir() else f"there is nothing at {path}"
    raise UserError(f"{missing}; {download}")


def hub_files(repository: str, revision: str, patterns: Sequence[str], download: str) -> tuple[Path, ...]:
    """The files of a split at a commit of a dataset repository on the Hub, downloaded once.

    Raises:
        UserError: the Hub cannot be reached, or the commit has no such files.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=[*patterns]))
    except Exception as error:  # whatever the network, the Hub or its rights say: the way out is the same
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise UserError(f"{repository} at {revision} cannot be read ({reason}); {download}") from error
    found = tuple(sorted(file for pattern in patterns for file in folder.glob(pattern)))
    if not found:
        raise UserError(f"{repository} at {revision} has no file {' or '.join(patterns)}; {download}")
    return found


def pinned(revision: str, task: str, repository: str) -> str:
    """A commit, checked.

    Raises:
        UserError: it is none, so that it could move.
    """
    if len(revision) == COMMIT_LENGTH and not set(revision) - set("0123456789abcdef"):
        return revision
    said = f"revision '{revision}' can move" if revision else "no commit of it is known to vlmprof"
    raise UserError(
        f"task '{task}' reads {repository}: {said}; name a commit of {COMMIT_LENGTH} hexadecimal digits as 'revision:'"
        " (on the dataset's page under Files, History), or a local copy as 'path:'"
    )


def fingerprint(files: Sequence[Path]) -> str:
    """Identity of local files, by name and content: equal for a copy elsewhere."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLED_BYTES))
            stream.seek(max(size - _SAMPLED_BYTES, 0))
            digest.update(stream.read(_SAMPLED_BYTES))
    return f"files-{digest.hexdigest()[:16]}"
