"""The oracle and the rules that a controller has to beat: score by budget. Drawn on request only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.adaptive.oracle import VIOLATIONS, Oracle
from vlmprof.escaping import visible
from vlmprof.plots import _figure_file, _style

PANEL_INCHES = 3.3
COLOURS = (_style.INK, _style.BLUE, _style.GREEN, _style.OF_MODELS[1], *_style.OF_MODELS[3:])
_APART = 0.004


def draw_rules(found: Oracle, path: str | Path | None = None) -> Figure:
    """A panel for each group of comparable trials, a line for each rule that chooses for each sample.

    Bars are 95 % intervals. Hollow marks exceed the budget in more samples than is allowed. The shade reaches from the
    best single configuration to the oracle.

    Raises:
        UserError: another ending than ``.png``, ``.svg`` or ``.pdf``, or a file that cannot be written.
    """
    _figure_file.require_ending(path)
    names = list(dict.fromkeys(found.frame["group"]))
    with _style.applied():
        figure = _figure_file.new_figure(PANEL_INCHES * len(names))
        for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
            _draw(axes, found.frame[found.frame["group"] == name])
            axes.set_title(visible(str(name)), loc="left", wrap=True)
        return _figure_file.write(figure, path)


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    policies = [name for name in dict.fromkeys(rows["policy"]) if name not in ("oracle", "static")]
    shade = {name: rows[rows["policy"] == name].sort_values("budget") for name in ("oracle", "static")}
    budgets = shade["oracle"]["budget"].to_numpy(dtype=np.float64)
    static, best = (100 * shade[name]["score"].to_numpy(dtype=np.float64) for name in ("static", "oracle"))
    axes.fill_between(budgets, static, best, color=_style.GREY, alpha=0.12, linewidth=0)
    names = ["static", *policies, "oracle"]
    for i, name in enumerate(names):
        line = rows[rows["policy"] == name].sort_values("budget")
        colour = _style.VERMILION if name == "oracle" else COLOURS[i % len(COLOURS)]
        score, low, high = (100 * line[f"score{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
        at = line["budget"].to_numpy(dtype=np.float64) + _APART * (i - (len(names) - 1) / 2)
        look = {"color": colour, "marker": _style.MARKERS[i % len(_style.MARKERS)], "markersize": 4, "label": name}
        style = "--" if name.startswith("oracle") else "-"
        reach = [score - low, high - score]
        axes.errorbar(at, score, yerr=reach, linestyle=style, linewidth=1, **look, **_style.BARS)
        beyond = line["violations"].to_numpy(dtype=np.float64) > VIOLATIONS
        hollow = {**look, "label": None, "linestyle": "none", "markerfacecolor": "white", "zorder": 4}
        axes.plot(at[beyond], score[beyond], **hollow)
    axes.set_xlabel("budget, as a share of the cost of the full configuration")
    axes.set_ylabel("accuracy (%)")
    key = f"hollow: beyond the budget\nin more than {100 * VIOLATIONS:g} % of samples"
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=key, title_fontsize=7.5, alignment="left")
    _style.clean(axes)
