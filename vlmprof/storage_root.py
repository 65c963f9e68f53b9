"""Where results may lie. ``VLMPROF_STORAGE`` names the storage root; no job reaches outside it.

The root stands for the folder ``results``: a job without ``storage`` writes to ``<root>/<name>``, and one that says
``results/mine`` to ``<root>/mine``. Where no root is named, a relative place starts in the working folder and an
absolute one is taken as it is: then whoever starts the sweep decides. A relative place never leads upwards.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

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
