"""``Compactor``: the objects of many finished trials become one, so that reading ten thousand trials is quick.

The order is the one of all writing here: first the merged object, then a line of the ledger that names it and its
trials, and only at the next merge are the small objects removed. A crash at any point leaves each row readable once:
the line decides which object counts. Large objects are left as they are.
"""

from __future__ import annotations

from typing import final

from vlmprof.store import tables
from vlmprof.store.filesystem import PARTIAL, ResultsFolder
from vlmprof.store.ledger import Ledger
from vlmprof.store.manifest import MERGED, TABLES, Manifest, TableName, own_object

GATHERED = 128
"""So many trials are merged at a time."""
LARGE_BYTES = 256 * 1024
"""An object of this size is read quickly as it is."""


@final
class Compactor:
    """Belongs to the one who holds the place."""

    def __init__(self, place: ResultsFolder, ledger: Ledger) -> None:
        self._place, self._ledger = place, ledger
        self._catalog, self._known = Manifest(), 0
        self._left: dict[TableName, set[str]] = {table: set() for table in TABLES}
        for folder in (*TABLES, "chunks"):
            for name in place.names(folder):
                if name.endswith(PARTIAL):  # half written, when an earlier holder died
                    place.remove(f"{folder}/{name}")

    def merge(self) -> None:
        """Merge what has gathered; mostly there is nothing to do.

        Raises:
            OSError: it cannot be written; everything is as it was.
            StoreError: the place was lost to another writer, or an object is damaged.
        """
        self._catalog.take(self._ledger.lines[self._known :])
        self._known = len(self._ledger.lines)
        for table in TABLES:
            while len(self._catalog.ended) - len(self._catalog.merged[table]) - len(self._left[table]) >= GATHERED:
                self._merge(table)

    def _merge(self, table: TableName) -> None:
        sizes = {f"{table}/{name}": size for name, size in self._place.names(table).items()}
        self._clear(table, sizes)
        alone = self._catalog.alone(table)
        left = self._left[table] = {trial for trial, name in alone.items() if _stays(sizes.get(name))}
        trials = [trial for trial in alone if trial not in left][:GATHERED]
        if not trials:
            return
        found = tables.fetch(self._place, [alone[trial] for trial in trials])
        whole = tables.joined([part for part in found if part is not None], table)
        name = f"{table}/merged-{self._ledger.epoch or 0:06d}-{len(self._ledger.lines):08d}.parquet"
        self._place.write(name, tables.packed(whole))
        self._ledger.append(MERGED, table=table, file=name, trials=trials)
        self._catalog.take(self._ledger.lines[self._known :])
        self._known = len(self._ledger.lines)

    def _clear(self, table: TableName, there: dict[str, int]) -> None:
        """Remove what earlier merges have made superfluous."""
        ended = self._catalog.ended
        merged = {own_object(table, trial, ended[trial]) for trial in self._catalog.merged[table]}
        for name in [name for name in there if name in merged]:
            self._place.remove(name)


def _stays(size: int | None) -> bool:
    """Whether there is nothing to merge of a trial: its object is large, or it has none in this table."""
    return size is None or size >= LARGE_BYTES
