"""Scores and costs of every sample in every configuration of a group, as choosing for each sample needs them.

The cost of a sample is its predicted latency where the sweep has one (``latency_ms_predicted``), else the median of the
trial's requests, the same for all samples; or any other column of ``trials`` that is better lower. Which knob is one of
tokens, of depth or of width follows from the surface that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprof import registry
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import comparable, each_of, groups_named, require_few
from vlmprof.analyze.objectives import LATENCY, QUALITY, finite, parse_objectives
from vlmprof.analyze.score_matrix import COLUMNS, score_matrix
from vlmprof.errors import UnknownNameError, UserError
from vlmprof.stats.adaptive_choice import ChoiceTable
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.schema import knobs_of
from vlmprof.store.tables import schema_of
from vlmprof.surfaces import DecoderStack, ExpertRouting, FreeTiling, PixelBudget, TokenBudget, VisionBudget

PREDICTED = "latency_ms_predicted"
_READ = (*COLUMNS, PREDICTED, "effective_key")
ROLES: Mapping[str, tuple[type, ...]] = {
    "tokens": (VisionBudget, TokenBudget, PixelBudget, FreeTiling),
    "depth": (DecoderStack,),
    "width": (ExpertRouting,),
}
"""What a controller may turn -> the surfaces of knobs that do it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepChoices:
    """One group of configurations: every sample's score and cost in each."""

    name: str
    rows: pd.DataFrame
    """The trials, in the order of the columns of ``table``."""
    table: ChoiceTable
    samples: tuple[str, ...]
    full: int
    """The place of the full configuration: every knob at its largest value."""
    unit: str
    per_sample: bool
    """Whether samples differ in cost within a configuration."""
    captions: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def full_cost(self) -> float:
        """The mean cost of the full configuration, of which budgets are shares."""
        return float(self.table.costs[:, self.full].mean())

    @property
    def knobs(self) -> list[str]:
        """Those that differ among the trials."""
        return [knob for knob in knobs_of(map(str, self.rows.columns)) if len(set(self.values(knob))) > 1]

    def values(self, knob: str) -> list[str]:
        """The value of each trial as written; empty where it is not set."""
        return self.rows[f"requested_{knob}"].fillna("").astype(str).tolist()

    def turning(self, knobs: Sequence[str]) -> NDArray[np.bool_]:
        """(configurations,): those that differ from the full one in these knobs alone."""
        held = [knob for knob in self.knobs if knob not in knobs]
        alike = [np.array(self.values(knob)) == self.values(knob)[self.full] for knob in held]
        return np.asarray(np.logical_and.reduce(alike)) if alike else np.ones(len(self.rows), dtype=np.bool_)

    def by_role(self) -> dict[str, list[str]]:
        """``tokens``, ``depth``, ``width`` -> the knobs that differ and turn it; roles without one are left out."""
        found = {role: [knob for knob in self.knobs if _touches(knob, of)] for role, of in ROLES.items()}
        return {role: knobs for role, knobs in found.items() if knobs}

    def steps_down(self) -> list[list[int]]:
        """For each configuration those that have one knob at the next smaller value that was run."""
        labels = {knob: self.values(knob) for knob in self.knobs}
        at = {knob: self.rows[f"knob_{knob}"].to_numpy(dtype=np.float64) for knob in self.knobs}
        return [list(self._below(place, labels, at)) for place in range(len(self.rows))]

    def _below(self, place: int, labels: Mapping[str, list[str]], at: Mapping[str, Any]) -> Iterator[int]:
        for knob in labels:
            others = [np.array(labels[other]) == labels[other][place] for other in labels if other != knob]
            alike = np.logical_and.reduce(others) if others else np.ones(len(self.rows), dtype=np.bool_)
            smaller = np.flatnonzero(alike & (at[knob] < at[knob][place]))
            if len(smaller):
                yield int(smaller[at[knob][smaller].argmax()])


def _touches(knob: str, surfaces: tuple[type, ...]) -> bool:
    try:
        return registry.load("knobs", knob).needs in surfaces
    except UnknownNameError:  # a knob of a plugin that is not installed here: it has no role
        return False


def sweep_choices(folder: Where, by: str = "", cost: str = "") -> list[SweepChoices]:
    """The choices of each group of comparable trials.

    Args:
        folder: Results.
        by: Part of a group's name, where the folder holds several.
        cost: A column of ``trials``, better lower, as the cost of all samples; empty: the latency of each sample.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no such group or column, or no group with two configurations and common samples.
    """
    trials = tables.read(folder, "trials")
    if cost:
        _check_cost(cost, trials)
    frame = comparable(trials)
    chosen = groups_named(frame, by, folder)
    samples = tables.read_columns(folder, "samples", _READ)
    found, refused = each_of(chosen, lambda name, part: _choices(name, part, samples, cost))
    left_out = tuple(f"left out: {count} {state}" for state, count in frame.attrs["left_out"].items())
    first = found[0]
    said = (*first.caveats, *(f"not looked at: {one}" for one in refused), *left_out)
    return [_with_caveats(first, said), *found[1:]]


def _with_caveats(one: SweepChoices, caveats: tuple[str, ...]) -> SweepChoices:
    return replace(one, caveats=caveats)


def _check_cost(cost: str, trials: pd.DataFrame) -> None:
    (objective,) = parse_objectives([cost], schema_of(trials))
    if objective.better != "lower":
        raise UserError(f"'{cost}' is better higher, so it is no cost; latency_ms_p50 or flops_first_token is one")


def _choices(name: str, part: pd.DataFrame, samples: pa.Table, cost: str) -> SweepChoices:
    column = cost or LATENCY
    has = finite(part, QUALITY) & finite(part, column)
    rows = part[has].sort_values("trial").reset_index(drop=True)
    if len(rows) < 2:
        raise UserError(f"expected two configurations or more with accuracy and {column}, got {len(rows)}")
    require_few(rows, "the oracle")
    if not (rows[column] > 0).all():
        raise UserError(f"{column} is not above 0 in all configurations")
    trials = rows["trial"].tolist()
    matrix = score_matrix(samples, trials)
    costs, words, per_sample = _costs(samples, rows, matrix.samples, cost)
    full, of_full = _full(rows, costs)
    caveats = [*matrix.caveats, *of_full, *cautions(part)]
    if lacking := len(part) - len(rows):
        caveats.append(f"{lacking} of {len(part)} trials lack accuracy or {column} and are no choice")
    table = ChoiceTable(
        scores=matrix.paired.scores,
        costs=costs,
        clusters=matrix.paired.clusters,
        work=_work(samples, trials, matrix.samples),
    )
    unit = next(iter(parse_objectives([column], schema_of(part)))).unit
    return SweepChoices(
        name=name,
        rows=rows,
        table=table,
        samples=matrix.samples,
        full=full,
        unit=unit,
        per_sample=per_sample,
        captions=(words, f"full configuration: {rows['point'][full]}"),
        caveats=tuple(f"{name}: {one}" for one in caveats),
    )


def _costs(
    samples: pa.Table, rows: pd.DataFrame, names: Sequence[str], cost: str
) -> tuple[NDArray[np.float64], str, bool]:
    """(samples, configurations), a sentence on what it is, and whether samples differ."""
    column = cost or LATENCY
    same = np.tile(rows[column].to_numpy(dtype=np.float64), (len(names), 1))
    if cost:
        return same, f"cost: {cost} of each configuration, the same for all samples", False
    predicted = np.asarray(cells_of(samples, rows["trial"].tolist(), names, PREDICTED), dtype=np.float64)
    known = np.isfinite(predicted) & (predicted > 0)
    if known.all():
        return predicted, "cost: latency of each sample, predicted from the timed requests", True
    lacking = int((~known).any(axis=1).sum())
    return (
        same,
        f"cost: {LATENCY} of each configuration, as {lacking} of {len(names)} samples have no prediction",
        False,
    )


def _work(samples: pa.Table, trials: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """(samples, configurations): the first configuration that computed the same (``effective_key``)."""
    keys = cells_of(samples, trials, names, "effective_key")
    first: dict[tuple[int, Any], int] = {}
    places = [
        column if key is None else first.setdefault((row, key), column) for (row, column), key in np.ndenumerate(keys)
    ]
    return np.array(places, dtype=np.int64).reshape(keys.shape)


def cells_of(samples: pa.Table, trials: Sequence[str], names: Sequence[str], column: str) -> NDArray[Any]:
    """(samples, trials): what a column of ``samples`` says; None where there is no row.

    Args:
        samples: Rows with ``trial``, ``sample`` and the column.
        trials: Of the columns.
        names: Samples, of the rows.
        column: Its name.
    """
    wanted = pa.array(list(trials), pa.string())
    rows = samples.filter(pc.is_in(samples.column("trial"), wanted))
    at_trial = pc.index_in(rows.column("trial"), wanted).to_numpy()
    at_sample = pc.index_in(rows.column("sample"), pa.array(list(names), pa.string())).to_pylist()
    found = np.full((len(names), len(trials)), None, dtype=object)
    kept = [(i, at) for i, at in enumerate(at_sample) if at is not None]
    values = rows.column(column).to_pylist()
    for i, at in kept:
        found[at, at_trial[i]] = values[i]
    return found


def _full(rows: pd.DataFrame, costs: NDArray[np.float64]) -> tuple[int, list[str]]:
    """The place of the trial with every knob at its largest value; else the most expensive one, which is said."""
    means = costs.mean(axis=0)
    is_full = np.ones(len(rows), dtype=np.bool_)
    for knob in knobs_of(map(str, rows.columns)):
        at = rows[f"knob_{knob}"].to_numpy(dtype=np.float64)
        if np.isfinite(at).any():
            is_full &= (at == np.nanmax(at)) | (len(np.unique(at[np.isfinite(at)])) < 2)
    places = np.flatnonzero(is_full)
    if len(places):
        return int(places[means[places].argmax()]), []
    return int(means.argmax()), ["no trial has all knobs at their largest values: the most expensive stands for it"]
