"""The files that hold a task's rows: from a pinned commit on the Hub, or from a folder of the user.

Both are read by the same code: Parquet, JSONL or JSON. No code from the dataset's repository is executed. A branch such
as ``main`` is never read, because it can move between two trials.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vlmprof.errors import UserError
from vlmprof.file_identity import kind_of

SUFFIXES = (".parquet", ".jsonl", ".json")
COMMIT_LENGTH = 40


def local_files(path: Path, patterns: Sequence[str], split: str, download_hint: str) -> tuple[Path, ...]:
    """The files of a split under a local path, sorted.

    Args:
        path: A file, or a folder that holds either the repository's own layout or files named after the split.
        patterns: Globs of the repository's layout.
        split: Name of the split.
        download_hint: How to get the data, for the error message.

    Raises:
        UserError: no file matches; the message says which files were looked for and how to get them.
    """
    if path.is_file():
        return (path,)
    by_split = [f"{split}*{suffix}" for suffix in SUFFIXES]
    for pattern in (*patterns, *by_split, *(f"data/{name}" for name in by_split)):
        matches = tuple(sorted(file for file in path.glob(pattern) if file.suffix in SUFFIXES))
        if odd := next((file for file in matches if not file.is_file()), None):
            raise UserError(f"{odd} is {kind_of(odd)}; expected a file, because its name is that of one with rows")
        if matches:
            return matches
    expected = " or ".join(dict.fromkeys([*patterns, f"{split}*.parquet", f"{split}*.jsonl"]))
    problem = f"there is no file {expected} in {path}" if path.is_dir() else _why_nothing(path)
    raise UserError(f"{problem}; {download_hint}")


def _why_nothing(path: Path) -> str:
    if os.path.lexists(path):
        return f"{path} is {kind_of(path)}; expected a file or a folder"
    return f"there is nothing at {path}"


def hub_files(repository: str, revision: str, patterns: Sequence[str], download_hint: str) -> tuple[Path, ...]:
    """The files of a split at a commit of a dataset repository on the Hub, downloaded once.

    Raises:
        UserError: the Hub cannot be reached, or the commit has no such files.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=[*patterns]))
    except Exception as error:  # network, Hub or access rights: the remedy is the same for all
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise UserError(f"{repository} at {revision} cannot be read ({reason}); {download_hint}") from error
    matches = tuple(sorted(file for pattern in patterns for file in folder.glob(pattern)))
    if not matches:
        raise UserError(f"{repository} at {revision} has no file {' or '.join(patterns)}; {download_hint}")
    return matches


def pinned(revision: str, task: str, repository: str) -> str:
    """The revision, checked to be a full commit hash.

    Raises:
        UserError: it is not a commit hash, for example a branch, which can move.
    """
    if len(revision) == COMMIT_LENGTH and not set(revision) - set("0123456789abcdef"):
        return revision
    problem = f"revision '{revision}' can move" if revision else "vlmprof has no default commit for it"
    raise UserError(
        f"task '{task}' reads {repository}: {problem}; name a commit of {COMMIT_LENGTH} hexadecimal digits"
        " as 'revision:' (on the dataset's page under Files, History), or a local copy as 'path:'"
    )
