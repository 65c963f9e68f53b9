"""The largest complete grid among trials: a set of values for each knob, of which every combination was run.

A factorial analysis needs every cell. A sweep may be unfinished, random, or a grid with a configuration besides it, so
the largest complete part is looked for, and what is not in it is counted and named.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from vlmprof.errors import UserError
from vlmprof.store.schema import knobs_of

MOST_STEPS = 20_000
"""Of the search: beyond it the largest complete grid found so far is taken, which is then called so."""
Cell = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FullGrid:
    """Trials of which every combination of values was run."""

    knobs: tuple[str, ...]
    """Those with two values or more, by name."""
    labels: tuple[tuple[str, ...], ...]
    """The values of each knob as written, by the number that they are plotted at: the fullest last."""
    rows: pd.DataFrame
    """A row a cell, in the order of the knobs, the last one's value changing fastest."""
    held: Mapping[str, str]
    """Further knob -> the one value that it has in the grid."""
    caveats: tuple[str, ...]
    """What of the trials is not in it."""

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each knob has."""
        return tuple(map(len, self.labels))


def full_grid(part: pd.DataFrame, least: int = 2) -> FullGrid:
    """The largest complete grid of these trials with two values or more of ``least`` knobs or more.

    Args:
        part: Finished trials of one group (``analyze.comparability``), of which one is kept for each combination.
        least: How many knobs have to vary.

    Raises:
        UserError: there is none; the message says how many trials with which knobs were looked at.
    """
    sets = _by_swept_knobs(part)
    found = [(knobs, rows, *_largest(knobs, rows, least)) for knobs, rows in sets]
    kept = [one for one in found if one[2]]
    if not kept:
        looked = "; ".join(f"{len(rows)} with {', '.join(knobs) or 'no knob'}" for knobs, rows in sets) or "none"
        raise UserError(
            f"expected every combination of two values of {least} knobs or more, and found no such grid"
            f" among {len(part)} finished trials ({looked}); a job with the strategy grid runs one"
        )
    knobs, rows, axes, is_largest = max(kept, key=lambda one: (math.prod(map(len, one[2])), -len(one[0])))
    return _grid(part, (knobs, rows, axes), is_largest=is_largest)


def _by_swept_knobs(part: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """(the knobs that were set, the trials), the most trials first; of equal combinations the first trial."""
    knobs = knobs_of(map(str, part.columns))
    was_set = part[[f"requested_{knob}" for knob in knobs]].notna().to_numpy()
    keyed = part.assign(_swept=[", ".join(itertools.compress(knobs, of_trial)) for of_trial in was_set])
    found = []
    for swept, rows in keyed.groupby("_swept", sort=True):
        names = tuple(filter(None, str(swept).split(", ")))
        distinct = rows.sort_values("trial").drop_duplicates([f"requested_{knob}" for knob in names] or ["_swept"])
        found.append((names, distinct.drop(columns="_swept")))
    return sorted(found, key=lambda one: (-len(one[1]), one[0]))


def _values(rows: pd.DataFrame, knob: str) -> list[str]:
    """The values of a knob as written, by the number that they are plotted at; text without one comes first."""
    at = rows.groupby(f"requested_{knob}")[f"knob_{knob}"].first().fillna(-math.inf)
    return [str(label) for _, label in sorted((number, label) for label, number in at.items())]


def _cells(knobs: Sequence[str], rows: pd.DataFrame) -> dict[Cell, int]:
    """Place of each value of each knob -> the row."""
    places = [{label: i for i, label in enumerate(_values(rows, knob))} for knob in knobs]
    columns = [rows[f"requested_{knob}"].tolist() for knob in knobs]
    return {
        tuple(place[value] for place, value in zip(places, values, strict=True)): i
        for i, values in enumerate(zip(*columns, strict=True))
    }


def _largest(knobs: Sequence[str], rows: pd.DataFrame, least: int) -> tuple[list[list[int]], bool]:
    """The places of the values of the largest complete grid, empty where there is none, and whether it surely is that.

    Branch and bound: a combination that was not run is left out by leaving out one of its values, whichever leaves the
    largest grid. Values that lack the most combinations are left out first, so that a good grid is found early.
    """
    if len(knobs) < least:
        return [], True
    run = set(_cells(knobs, rows))
    best: list[list[int]] = []
    most, steps, seen = 0, 0, set[tuple[Cell, ...]]()
    stack = [tuple(tuple(range(len(_values(rows, knob)))) for knob in knobs)]
    while stack and steps < MOST_STEPS:
        steps += 1
        axes = stack.pop()
        size = math.prod(map(len, axes))
        if axes in seen or size <= most or sum(len(axis) > 1 for axis in axes) < least:
            continue
        seen.add(axes)
        lacking = _lacking(axes, run)
        if lacking is None:
            best, most = [list(axis) for axis in axes], size
            continue
        stack += _without(axes, lacking, run)
    return best, not stack


def _lacking(axes: tuple[Cell, ...], run: set[Cell]) -> Cell | None:
    """The combination that was not run whose values lack the most."""
    missing = [cell for cell in _product(axes) if cell not in run]
    if not missing:
        return None
    counts = [Counter(cell[k] for cell in missing) for k in range(len(axes))]
    return max(missing, key=lambda cell: max(counts[k][value] for k, value in enumerate(cell)))


def _without(axes: tuple[Cell, ...], cell: Cell, run: set[Cell]) -> list[tuple[Cell, ...]]:
    """The grids without one of the values of a cell; the most promising one last, as it is looked at first."""
    found = []
    for k, value in enumerate(cell):
        rest = tuple(one for one in axes[k] if one != value)
        if rest:
            found.append((*axes[:k], rest, *axes[k + 1 :]))
    return sorted(found, key=lambda one: sum(member in run for member in _product(one)))


def _product(axes: Iterable[Cell]) -> Iterator[Cell]:
    return itertools.product(*axes)


def _grid(
    part: pd.DataFrame, chosen: tuple[Sequence[str], pd.DataFrame, list[list[int]]], *, is_largest: bool
) -> FullGrid:
    knobs, rows, axes = chosen
    labels = [[_values(rows, knob)[i] for i in axis] for knob, axis in zip(knobs, axes, strict=True)]
    at = _cells(knobs, rows)
    ordered = rows.iloc[[at[cell] for cell in _product(tuple(map(tuple, axes)))]].reset_index(drop=True)
    varied = [k for k, axis in enumerate(axes) if len(axis) > 1]
    return FullGrid(
        knobs=tuple(knobs[k] for k in varied),
        labels=tuple(tuple(labels[k]) for k in varied),
        rows=ordered,
        held={knobs[k]: labels[k][0] for k in range(len(knobs)) if k not in varied},
        caveats=tuple(_caveats(part, ordered, is_largest=is_largest)),
    )


def _caveats(part: pd.DataFrame, kept: pd.DataFrame, *, is_largest: bool) -> Iterator[str]:
    outside = part[~part["trial"].isin(kept["trial"])]
    if len(outside):
        some = ", ".join(str(point) for point in outside["point"].head(3)) + (", ..." if len(outside) > 3 else "")
        yield f"{len(outside)} of {len(part)} trials are not in the complete grid of {len(kept)}: {some}"
    if not is_largest:
        yield "the search for the largest complete grid was ended: a larger one may exist"
    if same := int(kept["work_key"].dropna().duplicated().sum()):
        yield f"{same} of {len(kept)} configurations did the same work as another: their knobs had no effect there"


def names_of(knobs: Iterable[Any]) -> str:
    """A set of knobs for display and as a key: ``max_crops x moe_top_k``."""
    return " x ".join(map(str, knobs))
