"""Each knob against each objective, in small multiples: varied alone, and over all settings of the other knobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vlmprof.analyze.effects import marginal, one_at_a_time
from vlmprof.analyze.objectives import LATENCY, QUALITY, Objective, measured_objectives
from vlmprof.errors import UserError
from vlmprof.plots import _style
from vlmprof.plots._knob_axis import KnobAxis, Tick, tick_inches, write_axis
from vlmprof.plots.plot import AbstractPlot

OBJECTIVES = (QUALITY, LATENCY, "peak_bytes")
COLOURS = (_style.BLUE, _style.VERMILION, _style.GREEN)
PANEL_HEIGHT_INCHES, FEWEST_VALUES = 1.55, 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a knob, with the other knobs at their largest values; in the unit of the axis."""

    x: float
    y: float
    low: float
    high: float
    """``low`` to ``high`` is the 95 % interval; both are ``y`` if none was measured."""
    saturated: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and range at one value of a knob over all settings of the others, in the unit of the axis."""

    x: float
    median: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One knob against one objective."""

    knob: str
    y_label: str
    ticks: tuple[Tick, ...]
    logarithmic: bool
    ordered: bool
    """Whether the values are on a scale; words and lists of equal length are not, and no line joins them."""
    alone: tuple[Value, ...]
    spread: tuple[Spread, ...]
    """Empty if no other knob varies, if few settings were run with every value, or if the values have no order."""
    held: str
    left_out: int = 0
    """Trials whose setting of the other knobs was not run with every value of this one; not in ``spread``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurveData:
    """Everything that the figure shows: a row for each objective, a column for each knob."""

    title: str
    subtitle: str
    rows: tuple[tuple[Panel | None, ...], ...]
    """None where the objective was measured for fewer than two values of the knob."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels that are not None."""
        return tuple(panel for row in self.rows for panel in row if panel)


@final
class KnobCurve(AbstractPlot[CurveData]):
    """Small multiples, one for every knob with at least two values."""

    def __init__(self, objectives: Sequence[str] = OBJECTIVES) -> None:
        """One row for each of the objectives."""
        self._objectives = tuple(objectives)

    def of_objectives(self, names: Sequence[str]) -> KnobCurve:
        return KnobCurve(names)

    def data(self, trials: pd.DataFrame) -> CurveData:
        objectives = measured_objectives(trials, self._objectives)
        if not objectives:
            raise UserError(f"these trials measured none of {', '.join(self._objectives)}")
        found = [_panels(trials, objective) for objective in objectives]
        knobs = sorted({key for panels in found for key in panels})
        if not knobs:
            raise UserError("no knob took two values or more")
        rows = tuple(tuple(panels.get(key) for key in knobs) for panels in found)
        title, timing = _style.heading(trials)
        left_out = max((panel.left_out for panels in found for panel in panels.values()), default=0)
        matched = (
            f"up to {left_out} trials a knob left out of the median: not run with all its values" if left_out else ""
        )
        subtitle = "; ".join(filter(None, ["bars: 95 % intervals", matched, timing]))
        return CurveData(title=title, subtitle=subtitle, rows=rows)

    def draw(self, data: CurveData, figure: Figure) -> None:
        rows, columns = len(data.rows), len(data.rows[0])
        below = 0.45 + tick_inches([panel.ticks for panel in data.panels], columns)
        heading = _style.heading_inches(figure, data.title, data.subtitle)
        height = heading + 0.3 + PANEL_HEIGHT_INCHES * rows + below
        figure.set_size_inches(_style.WIDTH_INCHES, height)
        grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
        figure.subplots_adjust(
            left=0.6 / _style.WIDTH_INCHES,
            right=1 - 0.1 / _style.WIDTH_INCHES,
            top=1 - (heading + 0.35) / height,
            bottom=below / height,
            hspace=0.22,
            wspace=0.1,
        )
        for i, row in enumerate(data.rows):
            if _spans_a_decade(row):
                grid[i][0].set_yscale("log")  # and with it the others of the row, which share the axis
                grid[i][0].yaxis.set_major_formatter("{x:g}")
            for j, (axes, panel) in enumerate(zip(grid[i], row, strict=True)):
                if panel is None:
                    axes.set_axis_off()
                    continue
                _draw_panel(axes, panel, COLOURS[i % len(COLOURS)])
                _write_axes(axes, panel, bottom=i == rows - 1, left=j == 0, upright=below > 0.45)
        figure.align_ylabels(list(grid[:, 0]))
        _style.write_legend(figure, _legend(data), _style.write_heading(figure, data.title, data.subtitle))


def _spans_a_decade(row: Sequence[Panel | None]) -> bool:
    values = [value for panel in row if panel for value in panel.alone]
    lowest, highest = min((one.low for one in values), default=0.0), max((one.high for one in values), default=0.0)
    return lowest > 0 and highest >= 10 * lowest


def _panels(trials: pd.DataFrame, objective: Objective) -> dict[tuple[str, str], Panel]:
    """(knobs swept, knob) -> its panel."""
    alone, over_all = one_at_a_time(trials, objective), marginal(trials, objective)
    panels = {}
    for key, spread in over_all.groupby(["swept", "knob"]):
        swept, knob = key
        if len(spread) >= FEWEST_VALUES:
            curve = alone[(alone["swept"] == swept) & (alone["knob"] == knob)]
            panels[str(swept), str(knob)] = _panel(str(knob), objective, curve, spread)
    return panels


def _panel(knob: str, objective: Objective, curve: pd.DataFrame, spread: pd.DataFrame) -> Panel:
    quantity = _style.quantity(objective)
    axis = KnobAxis.of(spread)
    return Panel(
        knob=knob,
        y_label=quantity.label,
        ticks=axis.ticks,
        logarithmic=axis.logarithmic,
        ordered=axis.ordered,
        alone=tuple(_value(row, axis.at[row["label"]], quantity.factor) for _, row in curve.iterrows()),
        spread=tuple(_spread(row, axis.at[row["label"]], quantity.factor) for _, row in spread.iterrows())
        if axis.ordered and spread["trials"].min() > 1
        else (),
        held=next(iter(curve["held"]), ""),
        left_out=int(spread["left_out"].sum()),
    )


def _value(row: pd.Series[Any], x: float, factor: float) -> Value:
    y = float(row["value"]) * factor
    low, high = (y if pd.isna(row[name]) else float(row[name]) * factor for name in ("low", "high"))
    return Value(x=x, y=y, low=low, high=high, saturated=row["effect"] == "saturated")


def _spread(row: pd.Series[Any], x: float, factor: float) -> Spread:
    median, low, high = (float(row[name]) * factor for name in ("median", "low", "high"))
    return Spread(x=x, median=median, low=low, high=high)


def _draw_panel(axes: Axes, panel: Panel, colour: str) -> None:
    _style.clean(axes)
    if panel.spread:
        xs = [spread.x for spread in panel.spread]
        lows, highs = [spread.low for spread in panel.spread], [spread.high for spread in panel.spread]
        axes.fill_between(xs, lows, highs, color=_style.GREY, alpha=0.16, linewidth=0, zorder=1)
        medians = [spread.median for spread in panel.spread]
        axes.plot(xs, medians, color=_style.GREY, linewidth=0.9, linestyle="--", zorder=2)
    if panel.ordered:
        xs, ys = [value.x for value in panel.alone], [value.y for value in panel.alone]
        axes.plot(xs, ys, color=colour, linewidth=1.1, zorder=3)
    for saturated in (False, True):
        values = [value for value in panel.alone if value.saturated == saturated]
        axes.errorbar(
            [value.x for value in values],
            [value.y for value in values],
            yerr=_style.bars([(value.y, value.low, value.high) for value in values]),
            fmt="o",
            markersize=4.5,
            color=colour,
            markerfacecolor="white" if saturated else colour,
            zorder=4,
            **_style.BARS,
        )


def _write_axes(axes: Axes, panel: Panel, *, bottom: bool, left: bool, upright: bool) -> None:
    axes.margins(x=0.08, y=0.1)
    name = panel.knob if bottom else ""
    write_axis(axes, panel.ticks, logarithmic=panel.logarithmic, upright=upright, name=name)
    if left:
        axes.set_ylabel(panel.y_label)


def _legend(data: CurveData) -> list[Line2D | Patch]:
    panels = data.panels
    held = any(panel.held for panel in panels)
    name = "alone, the other knobs at their fullest" if held else "measured"
    entries: list[Line2D | Patch] = [_dot(name, joined=any(panel.ordered for panel in panels), filled=True)]
    if any(value.saturated for panel in panels for value in panel.alone):
        entries.append(_dot("saturated: a limit that did not bind", joined=False, filled=False))
    if any(panel.spread for panel in panels):
        entries.append(
            Line2D([], [], color=_style.GREY, linestyle="--", label="median of settings that every value has")
        )
        entries.append(Patch(color=_style.GREY, alpha=0.16, label="their range"))
    return entries


def _dot(label: str, *, joined: bool, filled: bool) -> Line2D:
    face = _style.INK if filled else "white"
    dot = Line2D([], [], color=_style.INK, marker="o", markerfacecolor=face, markersize=4.5, label=label)
    dot.set_linestyle("-" if joined else "none")
    return dot


PLOT = KnobCurve()
