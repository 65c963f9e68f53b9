"""``Manifest``: which object holds which trial's rows, as the ledger says.

A trial that has ended has an object of its own in each table, until these are merged with those of other trials. A
merged object stays as it is when one of its trials runs again: the ledger then names the new object, and the rows of
that trial in the old one are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final, get_args

from vlmprof.store.ledger import ENDED

TableName = Literal["samples", "timings", "trials"]
TABLES: Final[tuple[TableName, ...]] = get_args(TableName)
PartName = TableName | Literal["chunks"]
"""Also what is kept of a trial before it ends."""
MERGED = "merged"
"""The event: its ``file`` has the rows that its ``trials`` have in its ``table``."""


def own_object(table: str, trial: str, epoch: int | None) -> str:
    """The name of a trial's own object: of one writer's, where more than one host may write."""
    return f"{table}/{trial}.parquet" if epoch is None else f"{table}/{trial}.e{epoch:06d}.parquet"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Where the rows of every trial that has ended lie."""

    ended: dict[str, int | None] = field(default_factory=dict)
    """Trial id -> epoch of the writer that kept it."""
    merged: dict[str, dict[str, str]] = field(default_factory=lambda: {table: {} for table in TABLES})
    """Table -> trial id -> the merged object that has its rows."""
    members: dict[str, frozenset[str]] = field(default_factory=dict)
    """Merged object -> all trials that it was made of."""

    def take(self, entries: Iterable[Mapping[str, Any]]) -> Manifest:
        """Follow further lines of the ledger."""
        for entry in entries:
            event = entry["event"]
            if event == MERGED:
                trials = entry["trials"]
                self.members[entry["file"]] = frozenset(trials)
                self.merged[entry["table"]] |= dict.fromkeys(trials, entry["file"])
            elif event in ENDED or event == "started":
                self._turn(entry["trial"], event, entry.get("epoch"))
        return self

    def _turn(self, trial: str, event: str, epoch: int | None) -> None:
        for table in TABLES:
            self.merged[table].pop(trial, None)
        if event in ENDED:
            self.ended[trial] = epoch
        else:
            self.ended.pop(trial, None)

    def alone(self, table: TableName) -> dict[str, str]:
        """Trial id -> its own object, of the trials that are in no merged one; not every trial has rows."""
        merged = self.merged[table]
        return {
            trial: own_object(table, trial, epoch) for trial, epoch in sorted(self.ended.items()) if trial not in merged
        }

    def together(self, table: TableName) -> dict[str, frozenset[str]]:
        """Merged object -> the trials whose rows count there."""
        found: dict[str, set[str]] = {}
        for trial, file in self.merged[table].items():
            found.setdefault(file, set()).add(trial)
        return {file: frozenset(trials) for file, trials in sorted(found.items())}
