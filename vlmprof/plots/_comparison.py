"""The changes of a comparison with their intervals, a row a pair: accuracy on the left, latency on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.comparing.changes import Change
from vlmprof.analyze.comparing.comparison import RunComparison
from vlmprof.analyze.configurations import settings_in
from vlmprof.errors import UserError
from vlmprof.plots import _figure_file, _style

SHOWN = ("accuracy", "score", "latency_ms_p50")
MOST = 50
"""Pairs in one figure; of more those with the smallest p-value of any column."""
TOLD_APART = 0.05


def draw_comparison(comparison: RunComparison, path: str | Path | None = None) -> Figure:
    """The changes of quality and latency.

    Raises:
        UserError: another ending than ``.png``, ``.svg`` or ``.pdf``, a file that cannot be written, or neither quality
            nor latency is compared.
    """
    _figure_file.require_ending(path)
    changes = [comparison.changes[name] for name in SHOWN if name in comparison.changes]
    if not changes:
        raise UserError("neither quality nor latency is compared: there is nothing to draw")
    pairs = _pairs(comparison, changes)
    with _style.applied():
        figure = _figure_file.new_figure(1.1 + 0.19 * len(pairs))
        axes = figure.subplots(1, len(changes), sharey=True, squeeze=False)[0]
        for axis, change in zip(axes, changes, strict=True):
            _panel(axis, change, comparison, pairs)
        axes[0].set_yticks(range(len(pairs)), [_name(comparison, pair) for pair in pairs])
        axes[0].invert_yaxis()
        more = f", {len(pairs)} of {len(comparison.frame)} pairs" if len(pairs) < len(comparison.frame) else ""
        figure.suptitle(f"{comparison.names[0]} → {comparison.names[1]}{more}: change and 95 % interval", fontsize=8.5)
        return _figure_file.write(figure, path)


def _pairs(comparison: RunComparison, changes: Sequence[Change]) -> list[int]:
    count = len(comparison.frame)
    if count <= MOST:
        return list(range(count))
    least = np.nanmin([np.where(np.isnan(p), 2.0, p) for p in (change.p_values for change in changes)], axis=0)
    return sorted(int(i) for i in np.argsort(least, kind="stable")[:MOST])


def _name(comparison: RunComparison, pair: int) -> str:
    row = comparison.frame.iloc[pair]
    first, second = (settings_in(str(row[f"point_{side}"])) for side in "ab")
    words = []
    for knob in dict.fromkeys([*first, *second]):
        values = dict.fromkeys((first.get(knob, "-"), second.get(knob, "-")))
        words.append(f"{knob}={' → '.join(values)}")
    return " ".join(words) or str(row["point_a"])


def _panel(axis: Axes, change: Change, comparison: RunComparison, pairs: Sequence[int]) -> None:
    scale = 100.0 if change.by_ratio or change.unit == "fraction" else 1.0
    low, high = (scale * change.shares(of) for of in change.ends())
    value = scale * change.shares(change.estimates.value)
    moved = comparison.frame[f"{change.column}_p_holm"].to_numpy() < TOLD_APART
    axis.axvline(0, color=_style.GREY, linewidth=0.7)
    for place, pair in enumerate(pairs):
        if np.isnan(value[pair]):
            continue
        colour = _style.VERMILION if moved[pair] else _style.BLUE
        reach: Any = [[value[pair] - low[pair]], [high[pair] - value[pair]]]
        axis.errorbar(value[pair], place, xerr=reach, fmt="o", markersize=3.5, color=colour, **_style.BARS)
        if change.relative is not None and np.isfinite(change.relative.value[pair]):
            relative = scale * float(change.shares(change.relative.value[pair]))
            axis.plot(relative, place, "D", markersize=3.5, markerfacecolor="white", color=colour, zorder=3)
    unit = " (%)" if change.by_ratio else " (points)" if change.unit == "fraction" else ""
    known = "\ndiamond: relative to the canary" if change.relative is not None else ""
    axis.set_xlabel(f"{change.column}{unit}{known}")
