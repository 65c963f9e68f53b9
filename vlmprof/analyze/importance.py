"""How much each decoder block matters, from a sweep that left out one block at a time.

A block's score is the accuracy that is lost without it: the mean over the same samples of the score of the whole model
less that of the model without the block. The table is what the knob ``active_blocks`` reads under its policy
``importance``. A score is of one block alone: blocks that stand in for each other look unimportant one by one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pandas as pd
import pyarrow as pa

from vlmprof.analyze.comparability import comparable, groups
from vlmprof.errors import UserError
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, results_folder

FILE = "importance.parquet"
DIGITS = 12
"""Of the digest that pins a table in a job."""
KNOB = re.compile(r"(?:^| )active_blocks=(\{.*?\}|\[.*?\])(?= |$)")
"""The knob's value in a trial's ``point``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Every block of one model on one task."""

    of: str
    """Which model and task, as the groups of trials are named."""
    rows: tuple[Mapping[str, Any], ...]
    """By block: ``block``, ``score`` (accuracy lost without it), ``samples`` and the ``trial`` that left it out."""


def importance(folder: Where, by: str = "") -> Importance:
    """The scores of all blocks, from the trials of a folder.

    Args:
        folder: Results of a sweep with the whole model and, for each block, ``{drop: [block], policy: drop}``.
        by: Part of a group's name, where the folder holds several models, tasks or settings of other knobs.

    Raises:
        UserError: several groups and none named, no trial of the whole model, or a block without a trial.
    """
    trials = tables.read(folder, "trials")
    scored = comparable(trials).dropna(subset=["accuracy"])
    scored = scored.assign(value=[_value(point) for point in scored["point"]])
    scored["group"] = [
        f"{group} {KNOB.sub('', point).strip()}".strip()
        for group, point in zip(scored["group"], scored["point"], strict=True)
    ]
    found = [(name, part) for name, part in groups(scored.dropna(subset=["value"])) if by in name]
    if len(found) != 1:
        names = "; ".join(name for name, _ in found) or "none"
        raise UserError(
            f"{folder}: expected the trials of one model on one task, found {len(found)} such sets ({names}); name one"
        )
    (name, part), samples = found[0], tables.read(folder, "samples")
    whole = _whole(folder, part)
    dropped = {value[0]: trial for value, trial in _drops(part) if len(value) == 1}
    blocks = range(int(part.loc[part["trial"] == whole, "blocks_executed"].iloc[0]))
    missing = [block for block in blocks if block not in dropped]
    if missing:
        raise UserError(f"{folder}: no finished trial leaves out block {', '.join(map(str, missing))} alone")
    scores = {trial: one.set_index("sample")["score"] for trial, one in samples.groupby("trial")}
    rows = tuple(_row(block, dropped[block], scores[whole], scores[dropped[block]]) for block in blocks)
    return Importance(of=name, rows=rows)


def write_importance(found: Importance, folder: Where) -> tuple[str, str]:
    """Write the table beside the sweep's own, whole or not at all; returns its address and the digest that pins it."""
    place, data = results_folder(folder), tables.parquet_bytes(pa.Table.from_pylist([dict(row) for row in found.rows]))
    place.write(FILE, data)
    return place.address(FILE), hashlib.sha256(data).hexdigest()[:DIGITS]


def _value(point: str) -> Any:
    found = KNOB.search(point)
    return json.loads(found[1]) if found else None


def _drops(part: pd.DataFrame) -> list[tuple[list[int], str]]:
    pairs = zip(part["value"], part["trial"], strict=True)
    return [(value["drop"], trial) for value, trial in pairs if isinstance(value, dict) and "drop" in value]


def _whole(folder: Where, part: pd.DataFrame) -> str:
    whole = part.loc[part["effect_active_blocks"] == "no-op", "trial"]
    if whole.empty:
        raise UserError(
            f"{folder}: no finished trial keeps all blocks, so there is nothing to compare with; add"
            " {keep: <all of them>, policy: prefix} to the job and run it again"
        )
    return str(whole.iloc[0])


def _row(block: int, trial: str, whole: pd.Series[Any], without: pd.Series[Any]) -> Mapping[str, Any]:
    lost = (whole - without).dropna()  # by the samples' own ids: the same questions on both sides
    return {"block": block, "score": float(lost.mean()), "samples": len(lost), "trial": trial}
