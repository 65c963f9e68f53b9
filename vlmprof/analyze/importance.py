"""How much each decoder block matters, from a sweep that left out one block at a time.

A block's score is the accuracy that is lost without it: the mean over the same samples of the score of the whole model
less that of the model without the block, with a 95 % interval over pictures. Samples are those that every trial scored,
so that blocks are compared on the same ones; the others are counted. The table is what the knob ``active_blocks`` reads
under its policy ``importance``. A score is of one block alone: blocks that stand in for each other look unimportant one
by one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.score_matrix import ScoreMatrix, read_scores
from vlmprof.errors import UserError
from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.resampling import mean_covariance, mean_draws
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, results_folder

FILE = "importance.parquet"
LEAST = 4
"""So many least important blocks are compared with the others: as many as jobs usually leave out."""
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
    """By block: ``block``, ``score`` (accuracy lost without it), ``low`` to ``high`` (its 95 % interval), ``rank_low``
    to ``rank_high`` (its place from the least important, 1, in 95 % of draws), ``samples``, ``samples_left_out`` and
    the ``trial`` that left it out."""
    caveats: tuple[str, ...] = ()
    """What is left out, and which blocks cannot be told apart."""


def importance(folder: Where, by: str = "") -> Importance:
    """The scores of all blocks, from the trials of a folder.

    Args:
        folder: Results of a sweep with the whole model and, for each block, ``{drop: [block], policy: drop}``.
        by: Part of a group's name, where the folder holds several models, tasks or settings of other knobs.

    Raises:
        UserError: several groups and none named, no trial of the whole model, a block without a trial, or no samples
            that all trials scored.
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
    name, part = found[0]
    whole = _whole(folder, part)
    dropped = {value[0]: trial for value, trial in _drops(part) if len(value) == 1}
    blocks = range(int(part.loc[part["trial"] == whole, "blocks_executed"].iloc[0]))
    missing = [block for block in blocks if block not in dropped]
    if missing:
        raise UserError(f"{folder}: no finished trial leaves out block {', '.join(map(str, missing))} alone")
    try:
        matrix = read_scores(folder, [whole, *(dropped[block] for block in blocks)])
    except UserError as error:
        raise UserError(f"{folder}: the blocks cannot be compared: {error}") from None
    rows = tuple({**row, "trial": dropped[row["block"]]} for row in _rows(matrix))
    return Importance(of=name, rows=rows, caveats=(*matrix.caveats, *_told_apart(rows)))


def _rows(matrix: ScoreMatrix) -> list[dict[str, Any]]:
    """One a block; the first column of the matrix is the whole model."""
    scores = matrix.paired.scores
    lost = replace(matrix.paired, scores=scores[:, :1] - scores[:, 1:])
    clusters = len(np.unique(lost.clusters))
    half = student_quantile(0.95, clusters - 1) * np.sqrt(np.diag(mean_covariance(lost)))
    places = np.argsort(np.argsort(mean_draws(lost), axis=1), axis=1) + 1
    ranks = np.quantile(places, [0.025, 0.975], axis=0, method="nearest")
    return [
        {
            "block": block,
            "score": float(mean),
            "low": float(mean - half[block]),
            "high": float(mean + half[block]),
            "rank_low": int(ranks[0, block]),
            "rank_high": int(ranks[1, block]),
            "samples": len(scores),
            "samples_left_out": matrix.left_out,
        }
        for block, mean in enumerate(lost.means)
    ]


def _told_apart(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the blocks that a next job would leave out first are told from the others."""
    first = min(LEAST, len(rows) // 2)
    if not first:
        return
    least = sorted(rows, key=lambda row: row["score"])[:first]
    unsure = [row for row in rows if row not in least and row["rank_low"] <= first]
    if unsure:
        yield (
            f"the {first} least important blocks ({_blocks(least)}) are not told from {_blocks(unsure)}:"
            " more samples would tell, or not"
        )


def _blocks(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(row["block"]) for row in sorted(rows, key=lambda row: row["block"]))


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
