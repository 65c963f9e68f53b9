"""How settings, values and intervals are written: the same in tables, on screens, on the page and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from vlmprof.analyze.objectives import Objective

MARKS = {"saturated": "=", "mismatch": "!"}
"""The effect of a setting -> the mark after its value; other effects have none."""
SATURATED = "= saturated: this limit did not bind for any sample"


def is_set(row: pd.Series[Any], knob: str) -> bool:
    """Whether a trial sets a knob."""
    return not pd.isna(row[f"requested_{knob}"])


def mark(row: pd.Series[Any], knob: str) -> str:
    """The mark after a knob's value; empty for most."""
    return MARKS.get(row[f"effect_{knob}"], "") if is_set(row, knob) else ""


def marks_of(trials: pd.DataFrame, knob: str) -> set[str]:
    """The marks that a knob's values have among these trials."""
    effects = trials.loc[trials[f"requested_{knob}"].notna(), f"effect_{knob}"].dropna().unique()
    return {MARKS[effect] for effect in effects if effect in MARKS}


def setting(row: pd.Series[Any], knob: str) -> str:
    """A knob's value as a trial requested it, without its mark."""
    return str(row[f"requested_{knob}"]) if is_set(row, knob) else "-"


def legend(marks: Iterable[str]) -> tuple[str, ...]:
    """What the marks of a table mean."""
    return (SATURATED,) if "=" in set(marks) else ()


def unit(objective: Objective) -> str:
    """The unit that is shown with a column; fractions have none."""
    return "" if objective.unit == "fraction" else objective.unit


def with_unit(objective: Objective) -> str:
    """A column with its unit."""
    return f"{objective.column} ({unit(objective)})" if unit(objective) else objective.column


def measured(row: pd.Series[Any], objective: Objective) -> str:
    """The value of an objective with its interval; ``-`` where it was not measured."""
    value, low, high = (_number(row.get(f"{objective.column}{end}")) for end in ("", "_low", "_high"))
    return "-" if value is None else with_interval(value, low, high, objective.unit)


def with_interval(value: float, low: float | None, high: float | None, unit: str) -> str:
    """A value and its 95 % interval from low to high: ``56.10 [50.10, 283.00]``."""
    digits = 3 if unit == "fraction" else 2
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{ends}"


def letters(number: int) -> str:
    """1 -> a, 26 -> z, 27 -> aa: names of groups that are not numbers among numbers."""
    name = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
