"""The effect of a knob at each value of another: parallel lines where they do not interact. Drawn on request only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.coupling.coupling import Coupling
from vlmprof.escaping import visible
from vlmprof.plots import _figure_file, _style

PANEL_INCHES, LEGEND_INCHES = 1.6, 0.16
_MOST_COLUMNS = 3
_APART = 0.08


def draw_interactions(found: Coupling, path: str | Path | None = None) -> Figure:
    """A row for each objective, a panel for each two knobs, a line for each value of the first of them.

    Args:
        found: Of one group; of several, the first is drawn.
        path: Where it is written, ``.png``, ``.svg`` or ``.pdf``; None: not at all.

    Raises:
        UserError: another ending, or a folder that cannot be written to.
    """
    _figure_file.require_ending(path)
    first = found.effects["group"].iloc[0]
    effects = found.effects[found.effects["group"] == first]
    panels = [(objective, list(_panels(part))) for objective, part in effects.groupby("objective", sort=False)]
    with _style.applied():
        figure = _figure_file.new_figure(4.0, constrained=False)
        _draw(figure, visible(str(first)), panels)
        return _figure_file.write(figure, path)


def _panels(part: pd.DataFrame) -> list[pd.DataFrame]:
    """The effects of each two knobs once: lines of the one, along the values of the other, which comes later."""
    knobs = list(dict.fromkeys(part["knob"]))
    pairs = [(knobs[i], other) for i in range(len(knobs)) for other in knobs[i + 1 :]]
    found = [part[(part["knob"] == knob) & (part["other"] == other)] for knob, other in pairs]
    return [one for one in found if len(one)]


def _draw(figure: Figure, title: str, panels: list[tuple[object, list[pd.DataFrame]]]) -> None:
    widest = min(_MOST_COLUMNS, max(len(of) for _, of in panels))
    rows = sum(-(-len(of) // widest) for _, of in panels)
    lines = max(panel["value"].nunique() for _, of in panels for panel in of)
    legend = LEGEND_INCHES * (1 + -(-lines // 2))
    subtitle = "effect of a knob at each value of another, over all settings of the others; bars: 95 % intervals"
    heading = _style.heading_inches(figure, title, subtitle)
    height = heading + rows * (PANEL_INCHES + legend + 0.55)
    figure.set_size_inches(_style.WIDTH_INCHES, height)
    grid = figure.subplots(rows, widest, squeeze=False)
    figure.subplots_adjust(
        left=0.62 / _style.WIDTH_INCHES,
        right=1 - 0.1 / _style.WIDTH_INCHES,
        top=1 - (heading + legend + 0.1) / height,
        bottom=0.45 / height,
        hspace=(legend + 0.5) / PANEL_INCHES,
        wspace=0.32,
    )
    _style.write_heading(figure, title, subtitle)
    spots = iter(grid.ravel())
    for objective, of in panels:
        for i in range(-(-len(of) // widest) * widest):
            axes = next(spots)
            if i < len(of):
                _draw_panel(axes, str(objective), of[i], is_first=i % widest == 0)
            else:
                axes.set_axis_off()


def _draw_panel(axes: Axes, objective: str, panel: pd.DataFrame, *, is_first: bool) -> None:
    ratio = objective != "accuracy"
    at = list(dict.fromkeys(panel["at"]))
    values = list(dict.fromkeys(panel["value"]))
    colours = (_style.BLUE, _style.VERMILION, _style.GREEN, *_style.OF_MODELS)
    for i, value in enumerate(values):
        line = panel[panel["value"] == value].set_index("at").loc[at]
        factor = 1.0 if ratio else 100.0
        effect, low, high = (factor * line[name].to_numpy(dtype=np.float64) for name in ("effect", "low", "high"))
        axes.errorbar(
            np.arange(len(at)) + _APART * (i - (len(values) - 1) / 2),
            effect,
            yerr=[effect - low, high - effect],
            color=colours[i % len(colours)],
            marker=_style.MARKERS[i % len(_style.MARKERS)],
            markersize=3.5,
            linewidth=1.0,
            label=f"{_style.short(visible(str(value)))} against {_style.short(visible(str(panel['against'].iloc[0])))}",
            **_style.BARS,
        )
    axes.axhline(1.0 if ratio else 0.0, color=_style.GREY, linewidth=0.7)
    axes.set_xticks(range(len(at)), [_style.short(visible(str(label))) for label in at])
    axes.set_xlabel(visible(str(panel["other"].iloc[0])))
    axes.margins(x=0.15, y=0.15)
    _style.clean(axes)
    axes.legend(
        title=visible(str(panel["knob"].iloc[0])),
        title_fontsize=7.5,
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(-0.03, 1.0),
        ncols=2,
        columnspacing=1.0,
        handlelength=1.2,
        borderpad=0.1,
    )
    if is_first:
        axes.set_ylabel(f"{objective}, times" if ratio else "accuracy, points")
