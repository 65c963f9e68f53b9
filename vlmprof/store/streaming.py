"""``TableStream``: the rows of a table object by object, for tables that are too large to be held in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import pyarrow as pa
import pyarrow.compute as pc

from vlmprof.store import ledger, tables
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.manifest import Manifest, TableName
from vlmprof.store.tables import TRIES


@final
@dataclass(slots=True, kw_only=True)
class TableStream:
    """The rows of ``samples`` or ``timings``, of the trials that the ledger lists as ended.

    Rows of a trial keep their order and stay together; trials come in the order of their objects. Each object of the
    table is in memory once, none beside another. Of a trial that runs again meanwhile, the rows are those read first.
    """

    where: Where
    table: TableName
    lost: set[str] = field(default_factory=set)
    """Trials whose object is damaged; known once the iteration is over."""

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables with all columns of the schema.

        Raises:
            StoreError: the folder holds no sweep.
        """
        results = results_folder(self.where)
        ledger.require(results)
        done: set[str] = set()
        for _ in range(TRIES):
            todo = self._objects(done)
            gone = False
            for name, trials in todo.items():
                (part,) = tables.read_objects(results, [name])
                if part is None:  # a trial without rows, or merged with others in the meantime
                    gone = True
                    continue
                done |= trials
                if not isinstance(part, pa.Table):
                    self.lost |= trials
                    continue
                yield tables.concatenated([_of(part, trials)], self.table)
                del part  # before the next one is read
            if not gone or self._objects(done).keys() == {name for name, trials in todo.items() if not trials <= done}:
                return

    def _objects(self, done: set[str]) -> dict[str, frozenset[str]]:
        """Object -> trials whose rows are still to be read from it."""
        manifest = Manifest().apply(ledger.read(results_folder(self.where)))
        found = {name: frozenset(trials - done) for name, trials in manifest.merged_objects(self.table).items()}
        found |= {name: frozenset({trial} - done) for trial, name in manifest.own_objects(self.table).items()}
        return {name: trials for name, trials in found.items() if trials}


def _of(part: pa.Table, trials: frozenset[str]) -> pa.Table:
    wanted = pc.is_in(part.column("trial"), pa.array(sorted(trials)))
    return part if pc.all(wanted).as_py() else part.filter(wanted)  # most often all: a copy would cost as much again
