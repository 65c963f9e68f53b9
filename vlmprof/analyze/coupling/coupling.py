"""How knobs act together, from the tables: effects at each value of another knob, variance by knob, conditional fronts.

All of it is over a complete grid (``full_grid``): accuracy on the samples that all of its configurations scored, times
as logarithms, where "no interaction" means that the factor by which one knob changes the time is the same at each value
of the other. Effects are against the fullest value of a knob, the one that is plotted furthest right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import comparable, each_of, groups_named, require_few
from vlmprof.analyze.coupling.full_grid import FullGrid, full_grid, names_of
from vlmprof.analyze.drawn_objectives import SweepReader, Told, drawn_objective
from vlmprof.analyze.objectives import LATENCY, QUALITY, finite, parse_objectives
from vlmprof.analyze.score_matrix import read_scores
from vlmprof.errors import UserError
from vlmprof.plan.point import words_of
from vlmprof.stats import factorial
from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.estimates import NORMAL, holm
from vlmprof.stats.front_subsets import kept_front
from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.intervals import columns_of
from vlmprof.stats.resampling import DRAWS, cluster_sums, log_times, mean_covariance, mean_draws
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.tables import schema_of

Numbers = NDArray[np.float64]
ENDS = ("low", "high")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coupling:
    """How the knobs of a folder act together; a folder with several groups of comparable trials has rows of each."""

    frame: pd.DataFrame
    """A row for each set of one to three knobs: ``group``, ``objective``, ``knobs``, ``order`` (how many), ``share``
    of the variance of the grid with ``share_low`` and ``_high``, ``deviation`` (root mean square, of accuracy a
    difference, of a time a factor less 1) with its ends, and for two and three knobs ``p`` (test of no interaction)
    and ``p_holm`` (corrected for the number of tests of the objective)."""
    effects: pd.DataFrame
    """A row for each knob, value and value of another: ``group``, ``objective``, ``knob``, ``value``, ``against`` (its
    fullest value), ``other``, ``at``, ``effect`` with ``low`` and ``high``: a difference of accuracy, or a ratio of
    times, over all settings of further knobs."""
    interactions: pd.DataFrame
    """A row for each two or three knobs and values: ``group``, ``objective``, ``knobs``, ``values``, ``against``,
    ``effect`` with ``low``, ``high``, ``together_low`` and ``together_high``: how much the effect of one knob changes
    with the other, a difference of differences of accuracy, or a ratio of ratios of times."""
    fronts: pd.DataFrame
    """A row for each knob and value: ``group``, ``knob``, ``value``, ``on_front`` and ``of`` (configurations),
    ``hypervolume_kept`` and ``accuracy_lost`` with their ends: what is left of the front of the grid where the knob
    is held at the value, and how much accuracy that costs at equal latency; and ``points`` on the front."""
    captions: tuple[str, ...]
    """What it rests on."""
    caveats: tuple[str, ...]
    """What is left out, with numbers."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """One objective over a grid: cells in the order of its rows."""

    objective: str
    is_ratio: bool
    means: Numbers
    draws: Numbers
    covariance: Numbers
    reach: float
    cluster_sums: Numbers | None
    """(clusters, cells); None for times."""
    captions: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def coupling(folder: Where, by: str = "", time: str = LATENCY) -> Coupling:
    """How the knobs of each group of comparable trials act together.

    Args:
        folder: Results.
        by: Part of a group's name, where the folder holds several.
        time: The time beside accuracy, a column of ``analyze.timing_blocks.TIMES``.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no such group or time, or no group with a complete grid of two knobs that was scored or timed.
    """
    timing_blocks.require_time(time)
    frame = comparable(tables.read(folder, "trials"))
    chosen = groups_named(frame, by, folder)
    found, refused = each_of(chosen, lambda name, part: _of_group(folder, name, part, time))
    left_out = [f"{count} {state}" for state, count in frame.attrs["left_out"].items()]
    joined = _joined(found)
    said = [*joined.caveats, *frame.attrs["mixed"], *(f"no coupling of {one}" for one in refused)]
    return replace(joined, caveats=(*said, *([f"left out: {', '.join(left_out)}"] if left_out else [])))


def _joined(found: Sequence[Coupling]) -> Coupling:
    whole = [
        pd.concat([getattr(one, name) for one in found], ignore_index=True)
        for name in ("frame", "effects", "interactions", "fronts")
    ]
    return Coupling(
        frame=whole[0],
        effects=whole[1],
        interactions=whole[2],
        fronts=whole[3],
        captions=tuple(dict.fromkeys(sentence for one in found for sentence in one.captions)),
        caveats=tuple(dict.fromkeys(sentence for one in found for sentence in one.caveats)),
    )


def _of_group(folder: Where, name: str, part: pd.DataFrame, time: str) -> Coupling:
    grid, without = _measured_grid(part, time)
    known, caveats = _tables(folder, grid, time)
    fronts, of_fronts = _conditional_fronts(folder, grid, time)
    about = {"group": name}
    held = [f"{knob} {value} throughout" for knob, value in grid.held.items()]
    captions = [
        f"a complete grid of {len(grid.rows)} configurations: "
        + ", ".join([*map(_axis, grid.knobs, grid.labels), *held]),
        *(sentence for table in known for sentence in table.captions),
    ]
    of_tables = [sentence for table in known for sentence in table.caveats]
    return Coupling(
        frame=pd.DataFrame([about | row for table in known for row in _components(table, grid)]),
        effects=pd.DataFrame([about | row for table in known for row in _effects(table, grid)]),
        interactions=pd.DataFrame([about | row for table in known for row in _interactions(table, grid)]),
        fronts=pd.DataFrame([about | row for row in fronts]),
        captions=tuple(captions),
        caveats=tuple(
            f"{name}: {one}" for one in (*without, *grid.caveats, *cautions(part), *caveats, *of_tables, *of_fronts)
        ),
    )


def _axis(knob: str, labels: Sequence[str]) -> str:
    return f"{knob} {', '.join(labels)}"


def _measured_grid(part: pd.DataFrame, time: str) -> tuple[FullGrid, list[str]]:
    """The grid of the trials that measured accuracy or the time, whichever most did, and what is said of the others."""
    has = pd.DataFrame({name: finite(part, name) for name in (QUALITY, time)})
    wanted = [name for name in (QUALITY, time) if has[name].any()]
    if not wanted:
        raise UserError(f"no trial measured {QUALITY} as a mean over samples, or {time}")
    whole = has[wanted].all(axis=1).to_numpy()
    if not whole.any():
        whole = has[wanted[0]].to_numpy()
    lacking = int((~whole).sum())
    said = [f"{lacking} of {len(part)} trials lack {' or '.join(wanted)} and are not looked at"] if lacking else []
    kept = part[whole].reset_index(drop=True)
    require_few(kept, "coupling")
    return full_grid(kept), said


def _tables(folder: Where, grid: FullGrid, time: str) -> tuple[list[_Table], list[str]]:
    found, caveats = [], []
    for reader in (_accuracies, lambda one, two: _times(one, two, time)):
        try:
            found.append(reader(folder, grid))
        except UserError as error:
            caveats.append(str(error))
    if not found:
        raise UserError("; ".join(caveats))
    return found, caveats


def _accuracies(folder: Where, grid: FullGrid) -> _Table:
    if not finite(grid.rows, QUALITY).all():
        raise UserError("accuracy is not looked at: not all configurations have one that is a mean over samples")
    try:
        matrix = read_scores(folder, grid.rows["trial"].tolist())
    except UserError as error:
        raise UserError(f"accuracy is not looked at: {error}") from None
    sums = cluster_sums(matrix.paired)
    samples = len(matrix.samples)
    return _Table(
        objective=QUALITY,
        is_ratio=False,
        means=matrix.paired.means,
        draws=mean_draws(matrix.paired),
        covariance=mean_covariance(matrix.paired),
        reach=student_quantile(0.95, len(sums) - 1),
        cluster_sums=sums,
        captions=(f"accuracy on the {samples} samples, of {len(sums)} pictures, that all of them scored",),
        caveats=matrix.caveats,
    )


def _times(folder: Where, grid: FullGrid, time: str) -> _Table:
    values = grid.rows[time].to_numpy(dtype=np.float64) if finite(grid.rows, time).all() else np.zeros(1)
    sessions = None
    if (values > 0).all():
        rows = timing_blocks.read_times(folder)
        sessions = timing_blocks.sessions_of(rows, time, grid.rows["trial"].tolist())
    if sessions is None:
        raise UserError(f"{time} is not looked at: not all configurations were timed, generation by generation")
    times = log_times(sessions)
    logs = np.log(values)
    return _Table(
        objective=time,
        is_ratio=True,
        means=logs,
        draws=logs + times.draws(DRAWS, 1),
        covariance=np.diag(times.errors**2),
        reach=NORMAL,
        cluster_sums=None,
        captions=(times.words,),
    )


def _components(table: _Table, grid: FullGrid) -> Iterator[dict[str, Any]]:
    shape = grid.levels
    draws = table.draws.reshape(-1, *shape)
    means = table.means.reshape(shape)
    found = factorial.decompose(means, draws, table.covariance)
    chances = {one.factors: _chance(table, one.factors, shape, draws - means) for one in found if len(one.factors) > 1}
    corrected = dict(zip(chances, holm(np.array(list(chances.values()))).tolist(), strict=True))
    for one in found:
        spread = one.deviation
        row: dict[str, Any] = {
            "objective": table.objective,
            "knobs": names_of(grid.knobs[axis] for axis in one.factors),
            "order": len(one.factors),
        }
        for end, share, size in (
            ("", one.share and one.share.mean, spread.mean),
            ("_low", one.share and one.share.low, spread.low),
            ("_high", one.share and one.share.high, spread.high),
        ):
            row[f"share{end}"] = share
            row[f"deviation{end}"] = np.expm1(size) if table.is_ratio else size
        yield row | {"p": chances.get(one.factors), "p_holm": corrected.get(one.factors)}


def _chance(table: _Table, factors: tuple[int, ...], shape: tuple[int, ...], deviations: Numbers) -> float:
    if table.cluster_sums is None:
        return factorial.drawn_interaction_test(table.means.reshape(shape), deviations, factors)
    return factorial.interaction_test(table.cluster_sums.reshape(-1, *shape), factors)


def _contrasts(table: _Table, weights: Sequence[Numbers]) -> list[factorial.Contrast]:
    stacked = np.stack([one.ravel() for one in weights])
    return factorial.contrasts(stacked, table.means, table.covariance, table.draws, table.reach)


def _as_shown(table: _Table, value: float) -> float:
    return float(np.exp(value)) if table.is_ratio else value


def _effects(table: _Table, grid: FullGrid) -> Iterator[dict[str, Any]]:
    for knob, other in itertools.permutations(range(len(grid.knobs)), 2):
        last = grid.levels[knob] - 1
        cells = list(itertools.product(range(last), range(grid.levels[other])))
        weights = [factorial.contrast_weights(grid.levels, {knob: (value, last)}, {other: at}) for value, at in cells]
        for (value, at), found in zip(cells, _contrasts(table, weights), strict=True):
            yield {
                "objective": table.objective,
                "knob": grid.knobs[knob],
                "value": grid.labels[knob][value],
                "against": grid.labels[knob][last],
                "other": grid.knobs[other],
                "at": grid.labels[other][at],
                "effect": _as_shown(table, found.value),
                **{end: _as_shown(table, getattr(found, end)) for end in ENDS},
            }


def _interactions(table: _Table, grid: FullGrid) -> Iterator[dict[str, Any]]:
    for axes in factorial.sets_of(len(grid.knobs)):
        if len(axes) < 2:
            continue
        cells = list(itertools.product(*(range(grid.levels[axis] - 1) for axis in axes)))
        weights = [
            factorial.contrast_weights(
                grid.levels, {axis: (to, grid.levels[axis] - 1) for axis, to in zip(axes, cell, strict=True)}, {}
            )
            for cell in cells
        ]
        ends = (*ENDS, "together_low", "together_high")
        for cell, found in zip(cells, _contrasts(table, weights), strict=True):
            yield {
                "objective": table.objective,
                "knobs": names_of(grid.knobs[axis] for axis in axes),
                "values": ", ".join(grid.labels[axis][to] for axis, to in zip(axes, cell, strict=True)),
                "against": ", ".join(grid.labels[axis][-1] for axis in axes),
                "effect": _as_shown(table, found.value),
                **{end: _as_shown(table, getattr(found, end)) for end in ends},
            }


def _conditional_fronts(folder: Where, grid: FullGrid, time: str) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each knob and value, and why there are none where a front cannot be drawn."""
    rows = grid.rows
    if not (finite(rows, QUALITY).all() and finite(rows, time).all()):
        return [], ["no conditional fronts: they take accuracy and a time of every configuration"]
    try:
        objectives = parse_objectives([QUALITY, time], schema_of(rows))
        reader = SweepReader(folder=folder)
        drawn = [drawn_objective(rows, one, seed, reader, Told()) for seed, one in enumerate(objectives)]
    except UserError as error:
        return [], [f"no conditional fronts: {error}"]
    costs = np.column_stack([one.costs for one in drawn])
    draws = np.stack([one.draws for one in drawn], axis=2)
    found = []
    for axis, knob in enumerate(grid.knobs):
        at = np.indices(grid.levels)[axis].ravel()
        for level, label in enumerate(grid.labels[axis]):
            members = at == level
            kept = kept_front(costs, draws, members)
            on_front = np.flatnonzero(members)[non_dominated(costs[members])]
            row: dict[str, Any] = {"knob": knob, "value": label, "on_front": len(on_front), "of": int(members.sum())}
            for name, interval in (("hypervolume_kept", kept and kept.share), ("accuracy_lost", kept and kept.loss)):
                row |= columns_of(name, interval)
            found.append(row | {"points": "; ".join(words_of(str(rows["point"][i])) for i in on_front)})
    return found, []
