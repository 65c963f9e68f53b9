"""False alarms: how often a condition calls independent runs of one job different, each compared with each.

Nothing changed between such runs, so every alarm is a false one. Both orders of two runs are compared, as a condition
such as ``latency_ms_p50 > +3%`` looks one way. Comparisons that share a run depend on each other: the variance of their
mean is at most that of half as many independent ones as there are runs (a U-statistic of two, Hoeffding 1948, Ann.
Math. Stat. 19:293), so that is the sample size of the interval. Few runs leave it wide.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from vlmprof.analyze.comparing.comparison import RunComparison, Settings, compare_runs, read_run
from vlmprof.analyze.conditions import columns_of
from vlmprof.errors import UserError
from vlmprof.stats.intervals import MeanInterval, proportion_interval
from vlmprof.store.filesystem import Where

FEWEST = 2
ENOUGH = 40
"""Runs from which no false alarm puts the upper end of the interval below 20 %; fewer are said to say little."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """How often independent runs of one job raised an alarm."""

    text: str
    """The condition."""
    columns: tuple[str, ...]
    """That it is about."""
    runs: int
    frame: pd.DataFrame
    """A row a comparison: ``first``, ``second``, ``pairs``, ``alarm``; of each column the lowest and the highest change
    of its pairs, and whether these are ratios."""
    rate: MeanInterval
    """Share of comparisons with an alarm, and its 95 % interval."""
    caveats: tuple[str, ...]

    @property
    def alarms(self) -> int:
        """Comparisons with an alarm."""
        return int(self.frame["alarm"].sum())

    @property
    def size(self) -> float:
        """The number of independent comparisons that the interval is that of."""
        return self.runs / 2


def calibrate(folders: Sequence[Where], settings: Settings) -> Calibration:
    """Compare every run with every other, both ways.

    Args:
        folders: Results of independent runs of one job, two or more.
        settings: With a condition; as of ``compare``.

    Raises:
        StoreError: a folder holds no sweep.
        UserError: no condition, fewer than two runs, or what ``compare`` raises.
    """
    if not settings.fail_if:
        raise UserError("--calibrate measures false alarms of a condition: add --fail-if 'latency_ms_p50 > +3%'")
    if len(folders) < FEWEST:
        raise UserError(f"--calibrate: expected two runs or more, got {len(folders)}")
    runs = [read_run(folder) for folder in folders]
    found = [compare_runs(pair, settings) for pair in itertools.permutations(runs, 2)]
    condition = found[0].condition
    columns = columns_of(condition) if condition is not None else ()
    frame = pd.DataFrame([_row(one, columns) for one in found])
    return Calibration(
        text=settings.fail_if,
        columns=columns,
        runs=len(runs),
        frame=frame,
        rate=proportion_interval(float(frame["alarm"].mean()), len(runs) / 2),
        caveats=tuple(_caveats(found)),
    )


def _row(one: RunComparison, columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"first": one.names[0], "second": one.names[1], "pairs": len(one.frame)}
    row["alarm"] = one.is_alarming
    for name in columns:
        change = one.changes[name]
        values = change.shares(change.estimates.value)
        row |= {f"{name}_lowest": np.nanmin(values), f"{name}_highest": np.nanmax(values)}
        row[f"{name}_by_ratio"] = change.by_ratio
    return row


def _caveats(found: Sequence[RunComparison]) -> list[str]:
    differing = sorted({str(name) for one in found for name in one.provenance["column"]})
    said = [f"the runs differ in {', '.join(differing)}: are they of one job on one machine?"] if differing else []
    partial = sum(any("no partner" in caveat for caveat in one.caveats) for one in found)
    said += [f"in {partial} of {len(found)} comparisons some trials have no partner"] if partial else []
    runs = len({one.names[0] for one in found})
    if runs < ENOUGH:
        said.append(
            f"{runs} runs find frequent false alarms only; the rates in docs/decisions/compare.md are simulated"
        )
    return said
