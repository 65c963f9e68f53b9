"""How much each column differs between two runs, pair by pair, with its error: what a comparison is made of."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.comparing.matching import Matched
from vlmprof.analyze.score_matrix import COLUMNS
from vlmprof.stats.estimates import Estimates
from vlmprof.stats.paired import PairedDifferences
from vlmprof.stats.resampling import DRAWS
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Numbers = NDArray[np.float64]
Canary: TypeAlias = Literal["both", "divide", "ignore"]
"""Which reading of a ratio of times counts: both must show a change, that relative to the canary, that as measured."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """One column in both runs; arrays have one entry a pair, NaN where the two are not compared."""

    column: str
    unit: str
    by_ratio: bool
    """Whether ``estimates`` are logarithms of second over first; else they are second less first."""
    first: Numbers
    second: Numbers
    estimates: Estimates
    """As measured."""
    relative: Estimates | None = None
    """Of a time, relative to the canary; NaN where there is none."""
    has_error: bool = True
    """Whether anything is known of the error; else the value is exact, or its error is not known."""
    paired: tuple[PairedColumns, ...] = ()

    @property
    def readings(self) -> tuple[Estimates, ...]:
        """What must be beyond a bound for the change to be: two of a time that is also known relative to the canary."""
        return (self.estimates,) if self.relative is None else (self.estimates, self.relative)

    def ends(self) -> tuple[Numbers, Numbers]:
        """Lower and upper ends of the 95 % intervals: of two readings from the lower end of both to the upper.

        Two fractions differ by 1 at most, and so do the ends.
        """
        found = [reading.ends() for reading in self.readings]
        low, high = _least([low for low, _ in found]), -_least([-high for _, high in found])
        return (np.maximum(low, -1.0), np.minimum(high, 1.0)) if self.unit == "fraction" else (low, high)

    @property
    def p_values(self) -> Numbers:
        """Two-sided, of "nothing changed"; 1 where readings disagree on the direction."""
        if self.relative is None:
            return self.estimates.p_values()
        lacking = np.isnan(self.relative.value)
        disagree = np.sign(self.relative.value) * np.sign(self.estimates.value) < 0
        both = np.where(disagree, 1.0, np.maximum(self.estimates.p_values(), self.relative.p_values()))
        return np.asarray(np.where(lacking, self.estimates.p_values(), both))

    def shares(self, values: Numbers) -> Numbers:
        """Logarithms of ratios as shares (0.03: 3 % more); differences as they are."""
        return np.asarray(np.expm1(values)) if self.by_ratio else values


def _least(of_readings: Sequence[Numbers]) -> Numbers:
    """The least of all readings; that of the others where one is not known."""
    return np.asarray(functools.reduce(np.fmin, of_readings))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedColumns:
    """What only pairs of scores have."""

    pairs: NDArray[np.int64]
    """Which pairs these are."""
    found: PairedDifferences
    left_out: NDArray[np.int64]
    binary: NDArray[np.bool_]


@final
@dataclass(kw_only=True)
class ComparedRun:
    """One results folder; its large tables are read once, and only if they are needed."""

    folder: Where
    name: str
    trials: pd.DataFrame
    """As ``analyze.comparability.comparable`` gives them: all finished ones."""

    @cached_property
    def scores(self) -> dict[str, pa.Table]:
        """Trial -> its rows of ``samples``, with the columns of ``score_matrix``."""
        return rows_by_trial(tables.read_columns(self.folder, "samples", COLUMNS))

    @cached_property
    def times(self) -> pd.DataFrame:
        """The timed generations, canaries included."""
        return timing_blocks.read_all_times(self.folder)


def rows_by_trial(rows: pa.Table) -> dict[str, pa.Table]:
    """Trial -> its rows of a table."""
    rows = rows.take(pc.sort_indices(rows.column("trial"))).combine_chunks()
    counted = Counter(rows.column("trial").to_pylist())
    found, start = {}, 0
    for trial in sorted(counted):
        found[trial] = rows.slice(start, counted[trial])
        start += counted[trial]
    return found


@final
@dataclass(slots=True, kw_only=True)
class Reader:
    """The two runs, and the sentences that gather while they are compared."""

    first: ComparedRun
    second: ComparedRun
    canary: Canary = "both"
    across_devices: bool = False
    draws: int = DRAWS
    captions: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        """Each folder once."""
        return (self.first,) if self.first is self.second else (self.first, self.second)

    @property
    def sides(self) -> tuple[ComparedRun, ComparedRun]:
        """Both, also where they are one folder."""
        return self.first, self.second

    def say(self, caption: str) -> None:
        """Add a caption, once."""
        if caption not in self.captions:
            self.captions.append(caption)

    def tell(self, counted: Counter[str], pairs: int, what: str) -> None:
        """Say why some pairs are not compared in ``what``."""
        for why, count in counted.items():
            self.caveats.append(f"{what} is not compared in {count} of {pairs} pairs: {why}")


def values_of(rows: pd.DataFrame, column: str) -> Numbers:
    """(rows,): a column as numbers, NaN where it is missing or not finite."""
    if column not in rows:
        return np.full(len(rows), np.nan)
    values = rows[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def no_estimates(pairs: int) -> Estimates:
    """NaN for every pair, to be filled in."""
    return Estimates(value=np.full(pairs, np.nan), error=np.full(pairs, np.nan), freedom=np.full(pairs, np.inf))


def fill(target: Estimates, at: NDArray[np.int64], found: Estimates) -> None:
    """Write the estimates of some pairs."""
    target.value[at], target.error[at], target.freedom[at] = found.value, found.error, found.freedom


def rows_of(pairs: Matched, names: Sequence[str]) -> Iterator[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The rows of both trials of each pair, with the trial and the columns of these names that there are."""
    sides = (records(rows, names) for rows in (pairs.first, pairs.second))
    yield from zip(*sides, strict=True)


def records(rows: pd.DataFrame, names: Sequence[str]) -> list[dict[Any, Any]]:
    """Rows with the trial and some of their columns, as far as there are such: rows of all columns are slow to make."""
    found: list[dict[Any, Any]] = rows[[name for name in dict.fromkeys(("trial", *names)) if name in rows]].to_dict(
        "records"
    )
    return found


def unlike(first: dict[Any, Any], second: dict[Any, Any], names: Sequence[str]) -> str:
    """Which of these columns differ and how, as ``metric vqa and anls``; empty where none does."""
    found = [(name, as_text(first, name), as_text(second, name)) for name in names]
    return ", ".join(f"{name} {a or 'none'} and {b or 'none'}" for name, a, b in found if a != b)


def as_text(row: dict[Any, Any], name: str) -> str:
    """A value as text; empty where it is not known."""
    value = row.get(name)
    if value is None or pd.isna(value):
        return ""
    # A whole number in a column with gaps comes back as a float.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
