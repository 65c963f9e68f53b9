"""The look-up table of an adaptive controller on the terminal: a row for each budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze import wording
from vlmprof.analyze.choosing.budgets import Budgets, GroupBudgets
from vlmprof.plan.point import words_of


def budgets_report(found: Budgets) -> Iterator[RenderableType]:
    """What to print: a table for each group, and what is to be known about it."""
    for one in found.tables:
        yield _table(found, one)
        yield Text(_optimism(one))
        yield from (Text(sentence, style="dim") for sentence in one.captions)
        yield from (Text(f"beware: {sentence}", style="yellow") for sentence in one.caveats)
    for why, count in found.left_out.items():
        yield Text(f"left out: {count} {why}", style="yellow")


def _table(found: Budgets, one: GroupBudgets) -> Table:
    unit, quality = wording.unit(one.cost), one.quality.column
    title = f"\n{one.group}: best {quality} within a budget of {one.cost.column}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    tolerance = f"above budget\n+ {100 * found.wanted.tolerance:g} %"
    corrected = f"{quality} corrected\nfor being chosen"
    cost = f"{one.cost.column}\n{unit} [95 %]".strip()
    table.add_column(f"budget\n{unit}", justify="right", vertical="bottom", no_wrap=True)
    table.add_column("configuration", vertical="bottom")
    for header in (f"{quality}\n[95 %]", corrected, cost, "P\nwithin", tolerance):
        table.add_column(header, justify="right", vertical="bottom", no_wrap=True)
    for _, row in one.rows.iterrows():
        table.add_row(f"{row['budget']:.6g}", *_cells(one, row))
    return table


def _cells(one: GroupBudgets, row: pd.Series[Any]) -> list[str]:
    if pd.isna(row["trial"]):
        return ["none is within it", *["-"] * 5]
    quality, corrected = (_interval(row, name, one.quality.unit) for name in ("quality", "quality_corrected"))
    rate = "-" if pd.isna(row["violation_rate"]) else f"{100 * row['violation_rate']:.1f} %"
    within = "-" if pd.isna(row["probability_feasible"]) else f"{row['probability_feasible']:.2f}"
    return [words_of(str(row["point"])), quality, corrected, _interval(row, "cost", one.cost.unit), within, rate]


def _interval(row: pd.Series[Any], name: str, unit: str) -> str:
    value, low, high = (None if pd.isna(row[f"{name}{end}"]) else float(row[f"{name}{end}"]) for end in _ENDS)
    return "-" if value is None else wording.with_interval(value, low, high, unit)


_ENDS = ("", "_low", "_high")


def _optimism(one: GroupBudgets) -> str:
    known = one.rows.dropna(subset=["quality_corrected"])
    if known.empty:
        return "each row's value is optimistic, as it was chosen by it; by how much is not known here"
    by = float((one.quality.sign * (known["quality_corrected"] - known["quality"])).max())
    return (
        f"each row's {one.quality.column} is optimistic, as it was chosen for it, here by up to {by:.3f}: the corrected"
        " value is beside it; whoever chose on some samples should report on others"
    )
