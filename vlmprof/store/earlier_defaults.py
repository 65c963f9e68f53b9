"""Defaults of ``timing`` that earlier versions had, for folders that were begun with them.

A trial's id is made of all values of ``timing``, so with other defaults the trials of a job that leaves them out are
other trials. A folder that was begun with the earlier ones goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmprof.store import ledger
from vlmprof.store.filesystem import Where, results_folder

EARLIER: Mapping[str, Any] = {
    "requests": 4,
    "warmup": 15,
    "warmup_seconds": 8.0,
    "repeats": 20,
    "max_repeats": 240,
    "max_seconds": 60.0,
    "exclusive": True,
    "energy_seconds": 5.0,
}


def earlier_timing(where: Where) -> dict[str, Any]:
    """The values of ``timing`` of the latest sweep in a folder that are defaults of an earlier version.

    Args:
        where: A results folder, which may not exist yet.
    """
    runs = [entry for entry in ledger.read(results_folder(where)) if entry["event"] == "sweep"]
    timing = runs[-1].get("job", {}).get("timing", {}) if runs else {}
    return {key: value for key, value in EARLIER.items() if timing.get(key) == value}
