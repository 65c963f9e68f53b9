"""``Compactor``: merges the objects of many finished trials into one, so that reading ten thousand trials is fast.

The order is that of all writing to a results folder: first the merged object, then a ledger line that names it and its
trials; the small objects are removed only at the next merge. A crash at any point leaves each row readable exactly
once, because the ledger line decides which object is read. Large objects are not merged.
"""

from __future__ import annotations

from typing import final

from vlmprof.errors import StoreError
from vlmprof.store import tables
from vlmprof.store.filesystem import PARTIAL, ResultsFolder
from vlmprof.store.ledger import Ledger
from vlmprof.store.manifest import MERGED, TABLES, Manifest, TableName, own_object

MERGE_BATCH = 128
"""Trials merged into one object."""
LARGE_BYTES = 256 * 1024
"""Objects of this size or more are fast to read and stay as they are."""


@final
class Compactor:
    """Used by the holder of the folder's lease only."""

    def __init__(self, results: ResultsFolder, ledger: Ledger) -> None:
        self._results, self._ledger = results, ledger
        self._manifest, self._lines_applied = Manifest(), 0
        self._unmerged: dict[TableName, set[str]] = {table: set() for table in TABLES}
        """Trials that are not merged: their object is large or damaged, or they have none in this table."""
        for folder in (*TABLES, "chunks"):
            for name in results.names(folder):
                if name.endswith(PARTIAL):  # half written, when an earlier holder died
                    results.remove(f"{folder}/{name}")

    def merge(self) -> None:
        """Merge the small objects, if there are enough of them; usually there is nothing to do.

        Raises:
            OSError: the merged object cannot be written; nothing has changed.
            StoreError: the folder was taken over by another writer.
        """
        self._update_manifest()
        for table in TABLES:
            while self._count_mergeable(table) >= MERGE_BATCH:
                self._merge(table)

    def _count_mergeable(self, table: TableName) -> int:
        return len(self._manifest.ended) - len(self._manifest.merged[table]) - len(self._unmerged[table])

    def _merge(self, table: TableName) -> None:
        sizes = {f"{table}/{name}": size for name, size in self._results.names(table).items()}
        self._remove_merged(table, sizes)
        objects = self._manifest.own_objects(table)
        unmerged = self._unmerged[table] = {
            trial for trial, name in objects.items() if not _is_mergeable(sizes.get(name))
        }
        trials = [trial for trial in objects if trial not in unmerged][:MERGE_BATCH]
        if not trials:
            return
        parts = dict(zip(trials, tables.read_objects(self._results, [objects[trial] for trial in trials]), strict=True))
        unmerged.update(trial for trial, part in parts.items() if isinstance(part, StoreError))
        trials = [trial for trial in trials if trial not in unmerged]
        if not trials:
            return
        merged = tables.concatenated([parts[trial] for trial in trials if parts[trial] is not None], table)
        name = f"{table}/merged-{self._ledger.epoch or 0:06d}-{len(self._ledger.lines):08d}.parquet"
        self._results.write(name, tables.parquet_bytes(merged))
        self._ledger.append(MERGED, table=table, file=name, trials=trials)
        self._update_manifest()

    def _update_manifest(self) -> None:
        self._manifest.apply(self._ledger.lines[self._lines_applied :])
        self._lines_applied = len(self._ledger.lines)

    def _remove_merged(self, table: TableName, names: dict[str, int]) -> None:
        """Remove the objects of single trials that earlier merges have copied into a merged one."""
        ended = self._manifest.ended
        merged = {own_object(table, trial, ended[trial]) for trial in self._manifest.merged[table]}
        for name in [name for name in names if name in merged]:
            self._results.remove(name)


def _is_mergeable(size: int | None) -> bool:
    """Whether a trial has an object in this table (None: it has none), and a small one."""
    return size is not None and size < LARGE_BYTES
