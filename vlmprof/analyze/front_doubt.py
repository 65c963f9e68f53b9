"""Fronts with their doubt, from the tables: who is surely on the front, who possibly, and what is not told apart.

Each objective is drawn in the way in which it was measured: accuracy from ``samples``, all configurations on the same
pictures; a median time from ``timings``, with the process effect; what has an interval in ``trials`` from that, each
configuration by itself; anything else is exact. What could not be had is said in ``caveats``, with numbers.
``stats.uncertain_front`` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.objectives import QUALITY, Objective
from vlmprof.analyze.pareto import Front, FrontDoubt, FrontSet
from vlmprof.analyze.score_matrix import COLUMNS, score_matrix
from vlmprof.errors import UserError
from vlmprof.stats.estimates import errors_of_intervals
from vlmprof.stats.resampling import DRAWS, PROCESS_EFFECT, PairedScores, log_times, mean_covariance, mean_draws
from vlmprof.stats.uncertain_front import SURELY, DrawnObjective, UncertainFront, uncertain_front
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Numbers = NDArray[np.float64]
MOST = 1000
"""Configurations in one front with doubt: every pair is compared."""
POINTS, SHARE = 0.01, 0.02
"""Epsilon of objectives that are compared by difference, such as accuracy, and by ratio, such as times."""
BY_RATIO = ("ms", "s", "samples/s", "tokens/s", "J", "bytes", "ratio", "FLOP", "tokens")
"""Units of which a percent means the same at any size: differences are those of logarithms."""
OF_TIME = ("ms", "samples/s", "tokens/s")


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


@final
@dataclass(slots=True, kw_only=True)
class _Reader:
    """What a folder holds, read once for all of its fronts, and only if a front needs it."""

    folder: Where
    epsilon: Mapping[str, float]
    _samples: pa.Table | None = field(default=None, init=False)
    _times: pd.DataFrame | None = field(default=None, init=False)

    @property
    def samples(self) -> pa.Table:
        if self._samples is None:
            self._samples = tables.read_columns(self.folder, "samples", COLUMNS)
        return self._samples

    @property
    def times(self) -> pd.DataFrame:
        if self._times is None:
            self._times = timing_blocks.read_times(self.folder)
        return self._times


@final
@dataclass(slots=True, kw_only=True)
class _Told:
    """Sentences that gather while a front is looked at."""

    captions: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def with_doubt(found: FrontSet, folder: Where, epsilon: Mapping[str, float] | None = None) -> FrontSet:
    """The same fronts, each with ``doubt`` and with the columns of ``analyze.pareto.DOUBT`` in its rows.

    Args:
        found: Fronts of trials of this folder.
        folder: Results.
        epsilon: Objective -> what counts as no difference: for units of ``BY_RATIO`` a share, such as 0.02, for others
            a difference, such as 0.01. Where it is not named: ``SHARE`` and ``POINTS``.

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
    reader = _Reader(folder=folder, epsilon=given)
    return replace(found, fronts=tuple(_doubtful(front, reader) for front in found.fronts))


def _doubtful(front: Front, reader: _Reader) -> Front:
    told = _Told()
    if len(front.rows) > MOST:
        told.caveats.append(f"no doubt is given for {len(front.rows)} configurations in one front, only up to {MOST}")
        return replace(front, doubt=FrontDoubt(caveats=tuple(told.caveats)))
    drawn = [_drawn(front.rows, one, i, reader, told) for i, one in enumerate(front.objectives)]
    given = [_epsilon(front.rows, one, reader.epsilon) for one in front.objectives]
    known = [one for one in drawn if one is not None]
    if len(known) < len(drawn):
        return replace(front, doubt=FrontDoubt(caveats=tuple(told.caveats)))
    doubt = uncertain_front(known, given)
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
        ends = [_value(front.rows, objective, costs[:, i]) for costs in (doubt.band_low, doubt.band_high)]
        columns[f"{objective.column}_band_low"] = np.minimum(*ends)
        columns[f"{objective.column}_band_high"] = np.maximum(*ends)
    return columns


def _by_ratio(rows: pd.DataFrame, objective: Objective) -> bool:
    values = rows[objective.column].to_numpy(dtype=np.float64)
    return objective.unit in BY_RATIO and bool((values > 0).all())


def _cost(rows: pd.DataFrame, objective: Objective) -> Numbers:
    values = rows[objective.column].to_numpy(dtype=np.float64)
    return np.asarray(objective.sign * (np.log(values) if _by_ratio(rows, objective) else values))


def _value(rows: pd.DataFrame, objective: Objective, costs: Numbers) -> Numbers:
    """Costs as values of the objective, in its unit."""
    values = np.exp(objective.sign * costs) if _by_ratio(rows, objective) else objective.sign * costs
    return np.asarray(np.clip(values, 0, 1) if objective.unit == "fraction" else values)


def _epsilon(rows: pd.DataFrame, objective: Objective, given: Mapping[str, float]) -> float:
    if _by_ratio(rows, objective):
        return math.log1p(given.get(objective.column, SHARE))
    return given.get(objective.column, POINTS)


def _drawn(rows: pd.DataFrame, objective: Objective, seed: int, reader: _Reader, told: _Told) -> DrawnObjective | None:
    """The objective with its draws; None where it is measured with an error that cannot be known."""
    if objective.column == QUALITY or (objective.column == "score" and rows["accuracy"].notna().all()):
        return _of_scores(rows, objective, seed, reader, told)
    if objective.column in timing_blocks.TIMES and _by_ratio(rows, objective):
        sessions = timing_blocks.sessions_of(reader.times, objective.column, rows["trial"].tolist())
        if sessions is not None:
            times = log_times(sessions)
            told.captions.append(times.words)
            costs = _cost(rows, objective)
            return DrawnObjective(
                costs=costs, draws=costs + times.draws(DRAWS, seed), errors=_independent(times.errors)
            )
    return _of_intervals(rows, objective, seed, told)


def _of_scores(
    rows: pd.DataFrame, objective: Objective, seed: int, reader: _Reader, told: _Told
) -> DrawnObjective | None:
    try:
        matrix = score_matrix(reader.samples, rows["trial"].tolist())
    except UserError as error:
        told.caveats.append(f"no doubt is given for this front: {error}")
        return None
    told.caveats += matrix.caveats
    paired, costs = matrix.paired, _cost(rows, objective)
    deviations = mean_draws(paired, DRAWS, seed) - paired.means
    return DrawnObjective(
        costs=costs, draws=costs - deviations, errors=_paired_errors(paired, rows["work_key"].tolist())
    )


def _paired_errors(paired: PairedScores, works: Sequence[Any]) -> Numbers:
    """Standard errors of differences of means: 0 for the same work, else that of one sample that differs at least."""
    covariance = mean_covariance(paired)
    each = np.diag(covariance)
    errors = np.sqrt(np.maximum(each[:, None] + each - 2 * covariance, 1 / len(paired.scores) ** 2))
    keys = np.array([str(work) for work in works])
    alike = (keys[:, None] == keys) & (paired.means[:, None] == paired.means)
    np.fill_diagonal(alike, val=True)
    return np.asarray(np.where(alike, 0.0, errors))


def _of_intervals(rows: pd.DataFrame, objective: Objective, seed: int, told: _Told) -> DrawnObjective:
    """From the intervals in ``trials``, each configuration by itself; without them the objective is exact."""
    costs, name = _cost(rows, objective), objective.column
    ends = [rows.get(f"{name}_{end}") for end in ("low", "high")]
    errors = np.zeros(len(costs))
    if all(end is not None and end.notna().all() for end in ends):
        low, high = (end.to_numpy(dtype=np.float64) for end in ends if end is not None)
        values = rows[name].to_numpy(dtype=np.float64)
        errors = errors_of_intervals(values, low, high, logarithms=_by_ratio(rows, objective))
        told.caveats.append(f"{name}: differences are told apart by the intervals of the two, not in pairs")
    elif objective.unit not in OF_TIME:
        told.captions.append(f"{name} taken as exact: it has no interval")
    if objective.unit in OF_TIME:
        errors = np.hypot(errors, PROCESS_EFFECT)
        told.captions.append(f"{name} from process to process {100 * PROCESS_EFFECT:g} %, assumed")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((DRAWS, len(costs)))
    return DrawnObjective(costs=costs, draws=costs + errors * noise, errors=_independent(errors))


def _independent(errors: Numbers) -> Numbers:
    return np.asarray(np.hypot(errors[:, None], errors) * (1 - np.eye(len(errors))))


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
