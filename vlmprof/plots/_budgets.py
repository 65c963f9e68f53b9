"""The look-up table of budgets as a figure: quality by budget, and how often requests exceed it; on request only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.choosing.budgets import Budgets, GroupBudgets
from vlmprof.escaping import visible
from vlmprof.plots import _figure_file, _style


def draw_budgets(found: Budgets, path: str | Path | None = None) -> Figure:
    """A panel for each group of comparable trials.

    The steps are the quality of what is chosen for a budget, as measured and after the correction for being chosen, the
    latter with its 95 % interval. Where samples have predictions, the violation rate has an axis on the right.

    Raises:
        UserError: another ending than ``.png``, ``.svg`` or ``.pdf``, or a file that cannot be written.
    """
    _figure_file.require_ending(path)
    with _style.applied():
        figure = _figure_file.new_figure(3.0 * len(found.tables))
        for axes, table in zip(figure.subplots(len(found.tables), squeeze=False)[:, 0], found.tables, strict=True):
            _draw(axes, table, found.wanted.tolerance)
        return _figure_file.write(figure, path)


def _draw(axes: Axes, table: GroupBudgets, tolerance: float) -> None:
    rows = table.rows
    scale, unit = (100, " (%)") if table.quality.unit == "fraction" else (1, "")
    budget = rows["budget"].to_numpy(dtype=np.float64)
    values = {name: scale * rows[name].to_numpy(dtype=np.float64) for name in rows if str(name).startswith("quality")}
    axes.step(budget, values["quality"], where="post", color=_style.GREY, linewidth=1, label="as measured")
    corrected, low, high = (values[f"quality_corrected{end}"] for end in ("", "_low", "_high"))
    label = "corrected for being chosen, 95 %"
    axes.step(budget, corrected, where="post", color=_style.BLUE, linewidth=1.4, label=label)
    axes.fill_between(budget, low, high, step="post", color=_style.BLUE, alpha=0.15, linewidth=0)
    axes.plot(budget, corrected, "o", color=_style.BLUE, markersize=3)
    axes.set_xlabel(f"budget of {table.cost.column} ({table.cost.unit})")
    axes.set_ylabel(f"{table.quality.column}{unit}")
    axes.set_title(visible(table.group), loc="left", wrap=True)
    _draw_violations(axes, rows, tolerance)
    axes.legend(loc="lower right")


def _draw_violations(axes: Axes, rows: pd.DataFrame, tolerance: float) -> None:
    rates = 100 * rows["violation_rate"].to_numpy(dtype=np.float64)
    if not np.isfinite(rates).any():
        return
    right = axes.twinx()
    right.plot(rows["budget"], rates, ":", color=_style.VERMILION, marker="x", markersize=4, linewidth=1)
    right.set_ylabel(f"samples above budget + {100 * tolerance:g} % (%)", color=_style.VERMILION)
    right.set_ylim(0, max(5.0, 1.1 * float(np.nanmax(rates))))
    right.spines["right"].set_visible(True)
