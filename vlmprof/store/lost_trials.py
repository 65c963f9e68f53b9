"""Trials that the ledger calls finished although their rows cannot be read: a file is gone, cut short or overwritten.

Such a trial is not finished: it runs again, as one that is missing does. An object that was found sound is not read
again while it stays the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import pyarrow as pa

from vlmprof.store import ledger, tables
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.ledger import FINISHED, State
from vlmprof.store.manifest import TABLES, Manifest, TableName
from vlmprof.store.misplaced import misplaced

COUNTED_BY: Final[Mapping[TableName, str]] = {"samples": "samples", "timings": "repeats"}
"""Table -> the column of ``trials`` that is empty where a trial has no rows in it."""

AT_A_TIME = 64
"""Objects in memory at a time."""

_Stamp = tuple[int, int]


@final
@dataclass(frozen=True, slots=True)
class _Sound:
    """An object that could be read."""

    stamp: _Stamp
    rows: Mapping[str, int]
    """Trial id -> how many rows it has here."""
    further: Mapping[str, Mapping[TableName, int]]
    """Of an object of ``trials``: trial id -> further tables that must have rows of it, and how many at least."""


_sound: dict[str, _Sound] = {}


def lost_trials(where: Where) -> list[str]:
    """Finished trials without readable rows, sorted.

    Raises:
        StoreError: the ledger is damaged.
    """
    results = results_folder(where)
    entries = list(ledger.read(results))
    for _ in range(tables.TRIES):
        lost = _lost(results, entries)
        if not lost:
            break
        again = list(ledger.read(results))
        if len(again) == len(entries):
            break
        entries = again  # objects may have been merged between reading the ledger and reading them
    return lost


def read_states(where: Where) -> dict[str, State]:
    """Trial id -> its last state; a trial that is lost has none, as one that never ran."""
    states, results = ledger.read_states(where), results_folder(where)
    if not any(results.names(table) for table in TABLES) and not any(misplaced(results)):
        return states  # only a ledger was ever written here
    lost = set(lost_trials(results))
    return {trial: state for trial, state in states.items() if trial not in lost}


def _lost(results: ResultsFolder, entries: list[Mapping[str, object]]) -> list[str]:
    manifest = Manifest().apply(entries)
    states = {str(entry["trial"]): entry["event"] for entry in entries if entry["event"] in ledger.STATES}
    finished = {trial for trial, state in states.items() if state in FINISHED}
    places = {table: _places(manifest, table) for table in TABLES}
    held = {table: _held(results, table, {places[table][trial] for trial in finished}) for table in TABLES}
    spoilt = {table for table in TABLES if results.folder is not None and (results.folder / table).is_file()}
    return sorted(trial for trial in finished if not _is_whole(trial, places, held, spoilt))


def _is_whole(
    trial: str,
    places: Mapping[TableName, Mapping[str, str]],
    held: Mapping[TableName, Mapping[str, _Sound | None]],
    spoilt: set[TableName],
) -> bool:
    row = held["trials"].get(places["trials"][trial])
    if row is None or trial not in row.rows:
        return False
    for table in COUNTED_BY:
        name = places[table][trial]
        if name in held[table] and held[table][name] is None:
            return False  # it is there, and damaged
        expected, found = row.further[trial].get(table, 0), held[table].get(name)
        if expected and (held[table] or table in spoilt) and (found is None or found.rows.get(trial, 0) < expected):
            return False  # other trials have rows in this table, so it was written
    return True


def _places(manifest: Manifest, table: TableName) -> dict[str, str]:
    """Trial id -> the object that has its rows in the table, if it has any."""
    merged = manifest.merged_objects(table)
    in_merged = {trial: name for name, trials in merged.items() for trial in trials}
    return manifest.own_objects(table) | in_merged


def _held(results: ResultsFolder, table: TableName, wanted: set[str]) -> dict[str, _Sound | None]:
    """Those of the wanted objects that exist; None for one that is damaged."""
    existing = {f"{table}/{name}": stamp for name, stamp in results.stamps(table).items()}
    found: dict[str, _Sound | None] = {}
    unread: dict[str, _Stamp] = {}
    for name in sorted(wanted & existing.keys()):
        stamp, known = existing[name], _sound.get(results.address(name))
        if known is not None and known.stamp == stamp:
            found[name] = known
        else:
            unread[name] = stamp
    names = list(unread)
    for first in range(0, len(names), AT_A_TIME):
        some = names[first : first + AT_A_TIME]
        for name, part in zip(some, tables.read_objects(results, some), strict=True):
            if isinstance(part, pa.Table):
                found[name] = _sound[results.address(name)] = _read(part, table, unread[name])
            elif part is not None:
                found[name] = None
    return found


def _read(part: pa.Table, table: TableName, stamp: _Stamp) -> _Sound:
    rows = Counter(part.column("trial").to_pylist())
    return _Sound(stamp, rows, _further_tables(part) if table == "trials" else {})


def _further_tables(part: pa.Table) -> dict[str, dict[TableName, int]]:
    columns = {
        name: part.column(column).to_pylist() for name, column in COUNTED_BY.items() if column in part.column_names
    }
    states = part.column("state").to_pylist() if "state" in part.column_names else ["done"] * len(part)
    further: dict[str, dict[TableName, int]] = {}
    for index, trial in enumerate(part.column("trial").to_pylist()):
        counts = {name: values[index] for name, values in columns.items() if values[index]}
        # A repeat has a row for each request it timed: their number follows from the job, one is there at least.
        further[trial] = {name: int(n) if name == "samples" else 1 for name, n in counts.items()}
        if states[index] != "done":
            further[trial] = {}
    return further
