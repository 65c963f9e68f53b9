"""How much faster each stage is than in the model without knobs, against each knob, beside what was possible.

Both come from one row (``trial.columns.speedup``): the model without knobs is timed beside every configuration, so the
figure needs no trial of it. Vision and prefill are bounded by the ratio of operations, a decode step by that of the
bytes that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from vlmprof.analyze.effects import one_at_a_time
from vlmprof.analyze.objectives import finite, parse_objectives
from vlmprof.errors import UserError
from vlmprof.plots import _style
from vlmprof.plots._knob_axis import KnobAxis, Tick, tick_inches, write_axis
from vlmprof.plots.plot import AbstractPlot
from vlmprof.store.schema import SPEEDUPS
from vlmprof.store.tables import schema_of

PANEL_HEIGHT_INCHES, FEWEST_VALUES = 1.45, 2
COLOURS = {"vision": _style.BLUE, "prefill": _style.VERMILION, "decode": _style.GREEN}
ROOM = 0.12
"""Of what a row of panels spans, for intervals above and below; wider ones are cut."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """One value of a knob, the other knobs at their largest values: how many times faster than without knobs."""

    x: float
    y: float
    low: float
    high: float
    """``low`` to ``high`` is the 95 % interval."""
    bound: float | None
    """The ratio of operations or of bytes; None where it is not known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StagePanel:
    """One stage against one knob."""

    stage: str
    knob: str
    ticks: tuple[Tick, ...]
    logarithmic: bool
    ordered: bool
    """Whether the values are on a scale, so that a line may join them."""
    values: tuple[Speedup, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupData:
    """Everything that the figure shows: a row for each stage, a column for each knob."""

    title: str
    subtitle: str
    held: bool
    """Whether there are other knobs, which stand at their fullest."""
    rows: tuple[tuple[StagePanel | None, ...], ...]
    """None where the stage was compared for fewer than two values of the knob."""

    @property
    def panels(self) -> tuple[StagePanel, ...]:
        """All panels that are not None."""
        return tuple(panel for row in self.rows for panel in row if panel)


@final
class SpeedupOfStages(AbstractPlot[SpeedupData]):
    """Small multiples of realised speed-up and bound, one for every stage and every knob with at least two values."""

    def data(self, trials: pd.DataFrame) -> SpeedupData:
        stages = [stage for stage in SPEEDUPS if finite(trials, f"speedup_{stage}").any()]
        if not stages:
            wanted = ", ".join(f"speedup_{stage}" for stage in SPEEDUPS)
            why = "they were not timed, or not beside the model without knobs"
            raise UserError(f"these trials measured none of {wanted}: {why}")
        with_load = _loaded_with(trials)
        found = [_panels(trials, stage, {one.partition("=")[0] for one in with_load}) for stage in stages]
        knobs = sorted({key for panels in found for key in panels})
        if not knobs:
            raise UserError("no knob that acts on a loaded model took two values or more")
        title, timing = _style.heading(trials)
        against = "speed-up against the model without knobs, timed beside each configuration on one request"
        against += f" and loaded as it is ({', '.join(with_load)})" if with_load else ""
        held = any(", " in swept for swept, _ in knobs)
        rows = tuple(tuple(panels.get(key) for key in knobs) for panels in found)
        cut = "; intervals cut at the edge of a panel are wider" if any(map(_cuts, rows)) else ""
        subtitle = f"{against}; bars: 95 % intervals{cut}; {timing}".rstrip("; ")
        return SpeedupData(title=title, subtitle=subtitle, held=held, rows=rows)

    def draw(self, data: SpeedupData, figure: Figure) -> None:
        rows, columns = len(data.rows), len(data.rows[0])
        upright = tick_inches([panel.ticks for panel in data.panels], columns)
        below = 0.45 + upright
        heading = _style.heading_inches(figure, data.title, data.subtitle)
        height = heading + 0.35 + PANEL_HEIGHT_INCHES * rows + below
        figure.set_size_inches(_style.WIDTH_INCHES, height)
        grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
        figure.subplots_adjust(
            left=0.6 / _style.WIDTH_INCHES,
            right=1 - 0.1 / _style.WIDTH_INCHES,
            top=1 - (heading + 0.4) / height,
            bottom=below / height,
            hspace=0.2,
            wspace=0.1,
        )
        for i, row in enumerate(data.rows):
            _scale(grid[i][0], _limits(row))
            for j, (axes, panel) in enumerate(zip(grid[i], row, strict=True)):
                if panel is None:
                    axes.set_axis_off()
                    continue
                _draw_panel(axes, panel)
                name = panel.knob if i == rows - 1 else ""
                write_axis(axes, panel.ticks, logarithmic=panel.logarithmic, upright=upright > 0, name=name)
                axes.margins(x=0.08)
                if j == 0:
                    axes.set_ylabel(f"{panel.stage}, times faster")
        figure.align_ylabels(list(grid[:, 0]))
        _style.write_legend(figure, _legend(data), _style.write_heading(figure, data.title, data.subtitle))


def _loaded_with(trials: pd.DataFrame) -> list[str]:
    """The values that knobs of loading had, such as ``dtype=bfloat16``: they are on both sides of a comparison."""
    stated = trials["speedup_loaded_with"].dropna() if "speedup_loaded_with" in trials else ()
    return sorted({one for text in stated for one in str(text).split(", ")})


def _panels(trials: pd.DataFrame, stage: str, of_loading: set[str]) -> dict[tuple[str, str], StagePanel]:
    """(knobs swept, knob) -> its panel."""
    (objective,) = parse_objectives([f"speedup_{stage}"], schema_of(trials))
    bounds = trials.set_index("trial")[f"speedup_{stage}_bound"]
    alone = one_at_a_time(trials, objective)
    panels = {}
    for key, curve in alone.groupby(["swept", "knob"]):
        swept, knob = str(key[0]), str(key[1])
        if knob not in of_loading and curve["label"].nunique() >= FEWEST_VALUES:
            panels[swept, knob] = _panel(stage, knob, curve, bounds)
    return panels


def _panel(stage: str, knob: str, curve: pd.DataFrame, bounds: pd.Series[Any]) -> StagePanel:
    axis = KnobAxis.of(curve.drop_duplicates("label"))
    values = []
    for _, row in curve.iterrows():
        low, high = (row["value"] if pd.isna(row[name]) else row[name] for name in ("low", "high"))
        bound = bounds[row["trial"]]
        values.append(
            Speedup(
                x=axis.at[row["label"]],
                y=float(row["value"]),
                low=float(low),
                high=float(high),
                bound=None if pd.isna(bound) else float(bound),
            )
        )
    ordered = tuple(sorted(values, key=lambda value: value.x))
    return StagePanel(
        stage=stage, knob=knob, ticks=axis.ticks, logarithmic=axis.logarithmic, ordered=axis.ordered, values=ordered
    )


def _limits(row: Sequence[StagePanel | None]) -> tuple[float, float]:
    """What the panels of a stage show: all values, all bounds and 1, with some room for intervals."""
    values = [value for panel in row if panel for value in panel.values]
    shown = [1.0, *(value.y for value in values), *(value.bound for value in values if value.bound)]
    lowest, highest = min(shown), max(shown)
    room = max(1.08, (highest / lowest) ** ROOM)
    return lowest / room, highest * room


def _cuts(row: Sequence[StagePanel | None]) -> bool:
    """Whether an interval leaves its panel."""
    lowest, highest = _limits(row)
    return any(value.low < lowest or value.high > highest for panel in row if panel for value in panel.values)


def _scale(axes: Axes, limits: tuple[float, float]) -> None:
    """A logarithmic axis: twice as fast is as far from 1 as half as fast."""
    axes.set_yscale("log", base=2)
    axes.set_ylim(*limits)
    few = limits[1] / limits[0] < 3
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.25, 1.5, 1.75) if few else (1.0, 1.5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()


def _draw_panel(axes: Axes, panel: StagePanel) -> None:
    _style.clean(axes)
    axes.axhline(1.0, color=_style.GREY, linewidth=0.7, zorder=1)
    line = "-" if panel.ordered else "none"
    bounded = [(value.x, value.bound) for value in panel.values if value.bound is not None]
    xs, bounds = [x for x, _ in bounded], [bound for _, bound in bounded]
    dashed = "--" if panel.ordered else "none"
    axes.plot(
        xs,
        bounds,
        color=_style.GREY,
        linestyle=dashed,
        linewidth=0.9,
        marker="D",
        markersize=3.8,
        markerfacecolor="white",
        zorder=2,
    )
    axes.errorbar(
        [value.x for value in panel.values],
        [value.y for value in panel.values],
        yerr=_style.bars([(value.y, value.low, value.high) for value in panel.values]),
        fmt="o",
        linestyle=line,
        linewidth=1.1,
        markersize=4.5,
        color=COLOURS[panel.stage],
        zorder=4,
        **_style.BARS,
    )


def _legend(data: SpeedupData) -> list[Line2D]:
    alone = "measured, the other knobs at their fullest" if data.held else "measured"
    dot: dict[str, Any] = {"marker": "o", "markersize": 4.5, "color": _style.INK}
    diamond: dict[str, Any] = {"marker": "D", "markersize": 3.8, "markerfacecolor": "white", "color": _style.GREY}
    entries = [Line2D([], [], linestyle="-", label=alone, **dot)]
    if any(value.bound is not None for panel in data.panels for value in panel.values):
        bound = "bound: ratio of operations (vision, prefill) or bytes (decode)"
        entries.append(Line2D([], [], linestyle="--", label=bound, **diamond))
    return entries


PLOT = SpeedupOfStages()
