"""Where results may lie: a path or a URI, judged by its text alone; no file system is asked.

``VLMPROF_STORAGE`` names the storage root, and no job reaches outside it. The root stands for the folder ``results``: a
job without ``storage`` writes to ``<root>/<name>``, and one that says ``results/mine`` to ``<root>/mine``. Where no
root is named, a relative path starts in the working folder and an absolute one is taken as it is: then whoever starts
the sweep decides. A relative path never leads upwards.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from vlmprof.errors import UserError

STORAGE = "VLMPROF_STORAGE"
DEFAULT = "results"


def results_place(storage: str, name: str) -> str:
    """A folder or URL for the results of a job.

    Args:
        storage: As the job says; empty where it says nothing.
        name: Of the job.
    """
    root = os.environ.get(STORAGE, "")
    if is_anchored(storage):
        return os.path.expanduser(storage)  # noqa: PTH111 (it may be a URL)
    if not root:
        return storage or f"{DEFAULT}/{name}"
    below = PurePosixPath(storage or name)
    if storage and below.parts[0] == DEFAULT:
        below = below.relative_to(DEFAULT)
    return f"{root.rstrip('/')}/{below}"


def inside_root(storage: str) -> str:
    """What a job says of its storage, checked.

    Raises:
        ValueError: it leads out of the storage root.
    """
    root = os.environ.get(STORAGE, "")
    if ".." in PurePosixPath(storage).parts:
        raise ValueError(f"'..' leads out of the folder that results belong in, got '{storage}'")
    if root and is_anchored(storage) and not _is_below(storage, root):
        raise ValueError(
            f"expected a place inside {root}, which {STORAGE} names, got '{storage}'; leave it out for {root}/<name>"
        )
    return storage


def is_anchored(place: str) -> bool:
    """Whether a place is absolute: a path from the root of the file system or of a home, or a URL."""
    return "://" in place or place.startswith(("/", "~"))


def _is_below(place: str, root: str) -> bool:
    if "://" in place or "://" in root:
        return place.startswith(f"{root.rstrip('/')}/")
    return Path(place).expanduser().resolve().is_relative_to(Path(root).expanduser().resolve())


STORES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
"""Kinds of URIs where an object is whole once it is there; files of HDFS are seen while they are written."""


def problem(where: str) -> str:
    """What is wrong with a path or a URI of results; empty when nothing is."""
    scheme, found, rest = where.partition("://")
    if not found:
        return ""
    if scheme not in STORES:
        return f"'{scheme}://' is no storage; expected a path, or one of {', '.join(f'{name}://' for name in STORES)}"
    user, found, _ = rest.partition("/")[0].rpartition("@")
    if found and (scheme == "s3" or ":" in user):
        # The job is kept in the ledger, and keys must not be.
        return f"keys do not belong into a URI; give them to {scheme}:// by the environment"
    return "" if rest.strip("/") and ".." not in rest.split("/") else f"'{where}' names no folder"


def storable(where: str) -> str:
    """The same place; a ValueError, for pydantic, where it is none."""
    if found := problem(where):
        raise ValueError(found)
    return where


def mounted(where: str) -> Path:
    """The folder, for what needs one on a mounted file system.

    Raises:
        UserError: it is in an object store.
    """
    if "://" in where:
        raise UserError(f"this needs a folder on a mounted file system, and the results are in {where}")
    return Path(where)
