"""``Manifest``: which object holds which trial's rows, according to the ledger.

A trial that has ended has an object of its own in each table, until these are merged with those of other trials. A
merged object is not rewritten when one of its trials runs again: the ledger then names the new object, and readers
skip the trial's rows in the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final, get_args

from vlmprof.store.ledger import ENDED

TableName = Literal["samples", "timings", "trials"]
TABLES: Final[tuple[TableName, ...]] = get_args(TableName)
PartName = TableName | Literal["chunks"]
"""A table, or the folder of the answers that are kept of a trial before it ends."""
MERGED = "merged"
"""The ledger event: ``file`` holds the rows of ``trials`` in ``table``."""


def own_object(table: str, trial: str, epoch: int | None) -> str:
    """The name of a trial's own object; with the writer's epoch where more than one host may write."""
    return f"{table}/{trial}.parquet" if epoch is None else f"{table}/{trial}.e{epoch:06d}.parquet"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Which objects hold the rows of the trials that have ended."""

    ended: dict[str, int | None] = field(default_factory=dict)
    """Trial id -> epoch of the writer that wrote it."""
    merged: dict[str, dict[str, str]] = field(default_factory=lambda: {table: {} for table in TABLES})
    """Table -> trial id -> the merged object that has its rows."""
    members: dict[str, frozenset[str]] = field(default_factory=dict)
    """Merged object -> all trials that were merged into it."""

    def apply(self, entries: Iterable[Mapping[str, Any]]) -> Manifest:
        """Update by further lines of the ledger; returns itself."""
        for entry in entries:
            event = entry["event"]
            if event == MERGED:
                trials = entry["trials"]
                self.members[entry["file"]] = frozenset(trials)
                self.merged[entry["table"]] |= dict.fromkeys(trials, entry["file"])
            elif event in ENDED or event == "started":
                self._set_state(entry["trial"], event, entry.get("epoch"))
        return self

    def _set_state(self, trial: str, event: str, epoch: int | None) -> None:
        for table in TABLES:
            self.merged[table].pop(trial, None)
        if event in ENDED:
            self.ended[trial] = epoch
        else:
            self.ended.pop(trial, None)

    def own_objects(self, table: TableName) -> dict[str, str]:
        """Trial id -> its own object, for the trials that are in no merged one; not every trial has rows."""
        merged = self.merged[table]
        return {
            trial: own_object(table, trial, epoch) for trial, epoch in sorted(self.ended.items()) if trial not in merged
        }

    def merged_objects(self, table: TableName) -> dict[str, frozenset[str]]:
        """Merged object -> the trials whose rows are to be read from it."""
        trials_of: dict[str, set[str]] = {}
        for trial, file in self.merged[table].items():
            trials_of.setdefault(file, set()).add(trial)
        return {file: frozenset(trials) for file, trials in sorted(trials_of.items())}
