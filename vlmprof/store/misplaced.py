"""A folder where a results folder has a file, or a file where it has a folder: told before a trial runs, not after.

Nothing is removed: whoever put it there may need what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlmprof.errors import StoreError
from vlmprof.file_identity import kind_of
from vlmprof.job.storage import why_outside
from vlmprof.store.filesystem import ResultsFolder, results_folder
from vlmprof.store.ledger_log import LEDGER, SEGMENTS
from vlmprof.store.manifest import TABLES

FILES = (LEDGER, "job.yaml", "pareto.parquet", ".progress.json", ".writer.lock")
FOLDERS = (*TABLES, "chunks", "batch_sizes", SEGMENTS, ".writer")


def require_places(results: ResultsFolder) -> None:
    """Check that every file and folder that a sweep writes can be one.

    Raises:
        StoreError: one cannot; names it and says how to go on.
    """
    found = list(misplaced(results))
    if found:
        more = f"; and {len(found) - 1} more such" if len(found) > 1 else ""
        raise StoreError(f"{found[0]}{more}; move it away, and start again: what it should hold is then made anew")


def why_no_folder(where: str) -> str:
    """Why no folder of results can be made at a path or URI; empty where one can be, or is.

    A place in an object store is not asked for: that needs a network, and keys that only the sweep may have.
    """
    if "://" in where and not where.startswith("file://"):
        return ""
    folder = results_folder(where).folder
    if folder is None:
        return ""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.is_dir():
            return ""
        if os.path.lexists(place):
            return f"{place} is {kind_of(place)}; expected a folder, or a name that is free"
    return ""


def misplaced(results: ResultsFolder) -> Iterator[str]:
    """A sentence for each folder in the place of a file, or file in the place of a folder; none in an object store."""
    folder = results.folder
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        yield f"{results} is a file, and a folder of results is expected there"
        return
    for name in (*FILES, *FOLDERS):
        if (folder / name).is_symlink() and (why := why_outside(str(folder / name))):
            yield why
    for name in FILES:
        if os.path.lexists(folder / name) and (kind := kind_of(folder / name)) != "a file":
            yield f"{results.address(name)} is {kind}, and a file is expected there"
    for name in FOLDERS:
        place = folder / name
        if place.exists() and not place.is_dir():
            yield f"{results.address(name)} is a file, and a folder is expected there"
        elif name in TABLES:
            yield from (
                f"{results.address(f'{name}/{inner.name}')} is a folder, and a file is expected there"
                for inner in _folders_in(place)
            )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(inner for inner in folder.glob("*.parquet") if inner.is_dir())
    except OSError:  # whoever reads it says so
        return []
