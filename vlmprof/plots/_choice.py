"""The best configuration beside its runners-up: the objective of each with its interval. Drawn on request only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.choosing.best import Best, Choice
from vlmprof.escaping import visible
from vlmprof.plan.point import words_of
from vlmprof.plots import _figure_file, _style

COLOURS = {"answer": _style.BLUE, "answer and safe": _style.BLUE, "safe": _style.GREEN}
NEAREST = 5
"""Rows where nothing meets the condition."""


def draw_choice(found: Best, path: str | Path | None = None) -> Figure:
    """A panel for each group of comparable trials: the answer, the safe answer and the runners-up, best on top.

    Bars are 95 % intervals of each configuration by itself; the diamond is the answer after the correction for having
    been chosen, with its interval.

    Raises:
        UserError: another ending than ``.png``, ``.svg`` or ``.pdf``, or a file that cannot be written.
    """
    _figure_file.require_ending(path)
    shown = [_shown(choice) for choice in found.choices]
    with _style.applied():
        figure = _figure_file.new_figure(sum(1.1 + 0.22 * len(rows) for rows in shown))
        ratios = [1.1 + 0.22 * len(rows) for rows in shown]
        panels = figure.subplots(len(shown), squeeze=False, height_ratios=ratios)[:, 0]
        for axes, choice, rows in zip(panels, found.choices, shown, strict=True):
            _draw(axes, choice, rows)
        return _figure_file.write(figure, path)


def _shown(choice: Choice) -> pd.DataFrame:
    named = choice.rows[choice.rows["role"].notna()]
    return named if len(named) else choice.rows.head(NEAREST)


def _draw(axes: Axes, choice: Choice, rows: pd.DataFrame) -> None:
    quantity, name = _style.quantity(choice.objective), choice.objective.column
    for place, (_, row) in enumerate(rows.iterrows()):
        value = quantity.factor * float(row[name])
        low, high = (quantity.factor * float(row.get(f"{name}_{end}", np.nan)) for end in ("low", "high"))
        low, high = (value if np.isnan(end) else end for end in (low, high))
        colour = COLOURS.get(str(row["role"]), _style.GREY)
        reach = [[value - low], [high - value]]
        axes.errorbar(value, place, xerr=reach, fmt="o", markersize=4, color=colour, **_style.BARS)
    if choice.corrected is not None and choice.answer in set(rows["trial"]):
        place = int(np.flatnonzero(rows["trial"] == choice.answer)[0])
        corrected = quantity.factor * choice.corrected.mean
        axes.plot(corrected, place, "D", markersize=4, markerfacecolor="white", color=_style.BLUE, zorder=4)
    axes.set_yticks(range(len(rows)), [_label(row) for _, row in rows.iterrows()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{quantity.label}\ndiamond: corrected for having been chosen")
    axes.set_title(visible(choice.group), loc="left", wrap=True)
    _style.clean(axes)


def _label(row: pd.Series[Any]) -> str:
    role = f" ({row['role']})" if isinstance(row["role"], str) and row["role"] != "runner-up" else ""
    return visible(f"{words_of(str(row['point']))}{role}")
