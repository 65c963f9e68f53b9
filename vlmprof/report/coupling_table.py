"""How knobs act together, on the terminal: variance by knob, interactions, conditional fronts, what it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze.coupling.coupling import Coupling

LISTED = 24
"""So many interactions of an objective are shown; the largest, in standard errors."""
_LEAST_DIGIT = 5e-5


def coupling_report(found: Coupling) -> Iterator[RenderableType]:
    """What to print: for each group and objective the shares and the interactions, then the fronts, then sentences."""
    for group, rows in found.frame.groupby("group", sort=False):
        yield heading(str(group))
        for objective, part in rows.groupby("objective", sort=False):
            yield _shares(f"\nvariance of {objective}", part)
            of = found.interactions
            yield from _interactions(str(objective), of[(of["group"] == group) & (of["objective"] == objective)])
        fronts = found.fronts[found.fronts["group"] == group] if len(found.fronts) else found.fronts
        if len(fronts):
            yield _fronts("\nthe front with one knob held", fronts)
    yield Text("")
    yield from (Text(sentence, style="dim") for sentence in found.captions)
    yield from (Text(f"beware: {sentence}", style="yellow") for sentence in found.caveats)


def heading(group: str) -> Text:
    """The name of a group, above its tables."""
    return Text(f"\n{group}", style="bold")


def plain_table(title: str, headers: tuple[str, ...]) -> Table:
    """An empty table as all reports have it: the first column to the left, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=i > 0, vertical="bottom")
    return table


def _shares(title: str, part: pd.DataFrame) -> Table:
    table = plain_table(title, ("knobs", "share % [95 %]", "deviation % [95 %]", "p", "p corrected"))
    for _, row in part.iterrows():
        deviation = interval(row, "deviation", 100, 2)
        table.add_row(row["knobs"], interval(row, "share", 100, 1), deviation, chance(row["p"]), chance(row["p_holm"]))
    return table


def _interactions(objective: str, part: pd.DataFrame) -> Iterator[RenderableType]:
    if part.empty:
        return
    ratio = objective != "accuracy"
    what = "ratio of ratios" if ratio else "difference of differences"
    table = plain_table(
        f"\ninteractions, {what} [95 % each] [95 % of all of these knobs]",
        ("knobs", "values", "against", "effect", "", ""),
    )
    shown = part.loc[_distance(part, 1.0 if ratio else 0.0).sort_values(ascending=False).index[:LISTED]].sort_index()
    for _, row in shown.iterrows():
        ends = [f"[{row[f'{name}low']:.3f}, {row[f'{name}high']:.3f}]" for name in ("", "together_")]
        table.add_row(row["knobs"], row["values"], row["against"], f"{row['effect']:.3f}", *ends)
    yield table
    if len(shown) < len(part):
        yield Text(f"{len(part) - len(shown)} more, not so clear; Results.coupling().interactions has all", style="dim")


def _distance(part: pd.DataFrame, nothing: float) -> pd.Series[Any]:
    """How far each effect is from none, in the lengths of its interval."""
    length = (part["high"] - part["low"]).clip(lower=1e-12)
    return (part["effect"] - nothing).abs() / length


def _fronts(title: str, part: pd.DataFrame) -> Table:
    headers = ("held", "on its front", "of", "hypervolume kept % [95 %]", "accuracy lost % [95 %]")
    table = plain_table(title, headers)
    for _, row in part.iterrows():
        kept, lost = interval(row, "hypervolume_kept", 100, 1), interval(row, "accuracy_lost", 100, 2)
        table.add_row(f"{row['knob']} {row['value']}", str(row["on_front"]), str(row["of"]), kept, lost)
    return table


def interval(row: pd.Series[Any], name: str, factor: float, digits: int) -> str:
    """``12.3 [10.1, 14.5]`` from ``<name>``, ``<name>_low`` and ``<name>_high``; ``-`` where it is not known."""
    values = [row.get(f"{name}{end}") for end in ("", "_low", "_high")]
    if any(value is None or pd.isna(value) for value in values):
        return "-" if values[0] is None or pd.isna(values[0]) else f"{factor * float(values[0]):.{digits}f}"
    middle, low, high = (f"{factor * float(value):.{digits}f}" for value in values if value is not None)
    return f"{middle} [{low}, {high}]"


def chance(p: Any) -> str:
    """A probability for display."""
    if p is None or pd.isna(p):
        return ""
    return "<0.0001" if p < _LEAST_DIGIT else f"{p:.4f}"
