"""Where results may be stored: checks of a path or URI by its text alone, without access to a file system.

``VLMPROF_STORAGE`` names the storage root, and no job writes outside it. The root stands for the folder ``results``: a
job without ``storage`` writes to ``<root>/<name>``, and one with ``storage: results/mine`` to ``<root>/mine``. Without
a root, a relative path starts in the working folder and an absolute one is taken as it is: then the user who starts the
sweep decides. A relative path must not lead upwards.
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
        storage: Of the job; empty if the job has none.
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
    """The ``storage`` of a job, checked.

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
    """Whether a path starts at the root of the file system or at a home folder, or is a URL."""
    return "://" in place or place.startswith(("/", "~"))


def _is_below(place: str, root: str) -> bool:
    if "://" in place or "://" in root:
        return place.startswith(f"{root.rstrip('/')}/")
    return Path(place).expanduser().resolve().is_relative_to(Path(root).expanduser().resolve())


STORES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
"""URI schemes of stores whose objects appear only when complete; files of HDFS are visible while they are written."""


def problem(where: str) -> str:
    """What is wrong with a path or URI for results; empty if nothing is."""
    scheme, separator, rest = where.partition("://")
    if not separator:
        return ""
    if scheme not in STORES:
        return (
            f"'{scheme}://' is not supported; expected a path, or one of {', '.join(f'{name}://' for name in STORES)}"
        )
    user, separator, _ = rest.partition("/")[0].rpartition("@")
    if separator and (scheme == "s3" or ":" in user):
        # The job is written to the ledger, which must not contain keys.
        return f"a URI must not contain keys; set those of {scheme}:// in the environment"
    return "" if rest.strip("/") and ".." not in rest.split("/") else f"'{where}' names no folder"


def storable(where: str) -> str:
    """The same path or URI, checked for pydantic.

    Raises:
        ValueError: see ``problem``.
    """
    if message := problem(where):
        raise ValueError(message)
    return where


def mounted(where: str) -> Path:
    """The results folder as a path, for features that need a mounted file system.

    Raises:
        UserError: it is in an object store.
    """
    if "://" in where:
        raise UserError(f"this needs a folder on a mounted file system, and the results are in {where}")
    return Path(where)
