"""Fronts with their doubt, from the tables: who is surely on the front, who possibly, and what is not told apart.

Each objective is drawn in the way in which it was measured (``analyze.drawn_objectives``), and what could not be had is
said in ``caveats``, with numbers; ``stats.uncertain_front`` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vlmprof.analyze.comparability import MOST_TOGETHER
from vlmprof.analyze.drawn_objectives import SweepReader, Told, drawn_objective, is_by_ratio, values_of
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.pareto import Front, FrontDoubt, FrontSet
from vlmprof.errors import UserError
from vlmprof.stats.uncertain_front import SURELY, UncertainFront, uncertain_front
from vlmprof.store.filesystem import Where

POINTS, SHARE = 0.01, 0.02
"""Epsilon of objectives that are compared by difference, such as accuracy, and by ratio, such as times."""

MEANINGS: Mapping[str, str] = {
    "front_membership": "Whether it is surely on the front, possibly, or no.",
    "front_probability": "Share of joint draws of all objectives in which it is on the front.",
    "front_rank": "One more than the expected number of trials that dominate it.",
    "tie_group": "Equal for trials of which no two are told apart in any objective at 95 %; null without a tie.",
    "epsilon_front": "Whether no trial would dominate it if it were better by epsilon in every objective.",
    "front_hypervolume": "Share of the box of all measured values that the front dominates, times as logarithms.",
    "front_hypervolume_low": "Lower end of its 95 % interval.",
    "front_hypervolume_high": "Upper end of its 95 % interval.",
}
"""Column of ``analyze.pareto.DOUBT`` -> what it says."""


def with_doubt(found: FrontSet, folder: Where, epsilon: Mapping[str, float] | None = None) -> FrontSet:
    """The same fronts, each with ``doubt`` and with the columns of ``analyze.pareto.DOUBT`` in its rows.

    Args:
        found: Fronts of trials of this folder.
        folder: Results.
        epsilon: Objective -> what counts as no difference: for units of ``drawn_objectives.BY_RATIO`` a share, such as
            0.02, for others a difference, such as 0.01. Where it is not named: ``SHARE`` and ``POINTS``.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: an epsilon that is negative, or of a column that is no objective here.
    """
    given = dict(epsilon or {})
    named = {objective.column for front in found.fronts for objective in front.objectives}
    for column, value in given.items():
        if column not in named:
            raise UserError(f"epsilon of '{column}', which is no objective here; these are: {', '.join(sorted(named))}")
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"epsilon of '{column}': expected 0 or more, got {value}")
    reader = SweepReader(folder=folder)
    return replace(found, fronts=tuple(_doubtful(front, reader, given) for front in found.fronts))


def _doubtful(front: Front, reader: SweepReader, epsilon: Mapping[str, float]) -> Front:
    told = Told()
    if len(front.rows) > MOST_TOGETHER:
        told.caveats.append(
            f"no doubt is given for {len(front.rows)} configurations in one front, only up to {MOST_TOGETHER}"
        )
        return replace(front, doubt=FrontDoubt(caveats=tuple(told.caveats)))
    try:
        drawn = [drawn_objective(front.rows, one, i, reader, told) for i, one in enumerate(front.objectives)]
    except UserError as error:
        told.caveats.append(f"no doubt is given for this front: {error}")
        return replace(front, doubt=FrontDoubt(caveats=tuple(told.caveats)))
    doubt = uncertain_front(drawn, [_epsilon(front.rows, one, epsilon) for one in front.objectives])
    told.captions.insert(0, f"surely: on the front in {100 * SURELY:g} % of draws; possibly: beaten by none at 95 %")
    rows = front.rows.assign(**_columns(front, doubt))
    rows.attrs = front.rows.attrs
    return replace(
        front,
        rows=rows,
        doubt=FrontDoubt(
            hypervolume=doubt.hypervolume, captions=tuple(dict.fromkeys(told.captions)), caveats=tuple(told.caveats)
        ),
    )


def _columns(front: Front, doubt: UncertainFront) -> dict[str, Any]:
    membership = np.where(doubt.surely, "surely", np.where(doubt.possibly, "possibly", "no"))
    columns: dict[str, Any] = {
        "front_membership": membership,
        "front_probability": doubt.probability,
        "front_rank": doubt.rank,
        "tie_group": pd.array([int(group) or None for group in doubt.tie_group], dtype="Int64"),
        "epsilon_front": doubt.epsilon_front,
    }
    volume = doubt.hypervolume
    for end, value in zip(
        ("", "_low", "_high"), (volume.mean, volume.low, volume.high) if volume else (), strict=False
    ):
        columns[f"front_hypervolume{end}"] = value
    for i, objective in enumerate(front.objectives):
        ends = [values_of(front.rows, objective, costs[:, i]) for costs in (doubt.band_low, doubt.band_high)]
        columns[f"{objective.column}_band_low"] = np.minimum(*ends)
        columns[f"{objective.column}_band_high"] = np.maximum(*ends)
    return columns


def _epsilon(rows: pd.DataFrame, objective: Objective, given: Mapping[str, float]) -> float:
    if is_by_ratio(rows, objective):
        return math.log1p(given.get(objective.column, SHARE))
    return given.get(objective.column, POINTS)


def sentences(doubt: FrontDoubt) -> Iterator[str]:
    """What is said below a front about its doubt: the hypervolume, and what the draws rest on."""
    if (volume := doubt.hypervolume) is not None:
        yield f"hypervolume {volume.mean:.3f} [{volume.low:.3f}, {volume.high:.3f}] of the box of all values"
    yield from doubt.captions


def said_of_doubt(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What the doubt of all fronts of a frame rests on, and what could not be had, each with the front's name.

    Args:
        frame: As ``report.pareto_table.read_front`` gives it; without doubt both are empty.
    """
    known: Mapping[str, FrontDoubt] = frame.attrs.get("doubt_of", {})
    rests_on = [f"{name}: {one}" for name, doubt in known.items() for one in sentences(doubt)]
    return rests_on, [f"{name}: {one}" for name, doubt in known.items() for one in doubt.caveats]
