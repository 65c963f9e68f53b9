"""The Pareto front of accuracy and latency: points on the front, dominated points, and intervals on both axes.

A group that spans models has one front over all of them: each model has a colour and a shape, which the legend names,
and dominated points are pale.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Transform

from vlmprof.analyze.comparability import model_names
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.pareto import Front, fronts_of
from vlmprof.errors import UserError
from vlmprof.plots import _style
from vlmprof.plots._labels import line_boxes, place
from vlmprof.plots.plot import AbstractPlot
from vlmprof.stats.fronts import non_dominated
from vlmprof.store.schema import knobs_of
from vlmprof.store.tables import schema_of

LABEL_SIZE = 7.5
DOMINATED = "#B5B5B5"
LOGARITHMIC_FROM = 8.0
MANY = 2000
"""Marks of one style, or in all: above, their intervals are a solid block and the file has megabytes."""
"""Latencies that span this factor are drawn on a logarithmic axis, else the fast ones would overlap."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """A value in the unit of its axis; ``low`` to ``high`` is its 95 % interval, both ``value`` without one."""

    value: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One configuration."""

    trial: str
    x: Coordinate
    y: Coordinate
    on_front: bool
    saturated: bool
    """A knob's value is a limit that no sample reached: the work was that of another value."""
    label: str
    model: str = ""
    """By the name that the legend gives it; empty if the figure shows one model."""
    membership: str = ""
    """``surely``, ``possibly`` or ``no``: whether it is on the front; empty where that is not known."""

    @property
    def shade(self) -> str:
        """What its colour says: ``surely``, ``possibly`` or ``no``; without doubt the measured front counts."""
        return self.membership or ("surely" if self.on_front else "no")


Corners = tuple[tuple[float, float], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FrontData:
    """Everything that the figure shows; ``marks`` are sorted by the x axis, ascending."""

    title: str
    subtitle: str
    x_label: str
    y_label: str
    label_key: str
    """Names of the parts of a label, in order; empty if no knob varies."""
    logarithmic: bool
    """Whether latency is drawn on a logarithmic axis."""
    marks: tuple[Mark, ...]
    models: tuple[str, ...] = ()
    """Names of the models, if there are several."""
    rising: tuple[bool, bool] = (True, False)
    """Whether larger is worse, on the x axis and on the y axis."""
    band: tuple[Corners, Corners] | None = None
    """Corners of two staircases that enclose the true front at 95 %: the better one, then the worse one."""

    @property
    def steps(self) -> Corners:
        """Corners of the staircase: from the point that is best on the x axis to the one that is best on the y axis."""
        return _staircase([(mark.x.value, mark.y.value) for mark in self.marks if mark.on_front], self.rising)


@final
class ParetoFront(AbstractPlot[FrontData]):
    """Median latency on the x axis, accuracy on the y axis, or two other objectives; the front as a staircase."""

    shows_models: ClassVar[bool] = True

    def __init__(self, objectives: Sequence[str] = ()) -> None:
        """Without ``objectives`` quality and latency, else that of the y axis, then that of the x axis."""
        self._objectives = tuple(objectives)

    def of_objectives(self, names: Sequence[str]) -> ParetoFront:
        if len(names) != 2:
            raise UserError(f"a front has two axes, and {len(names)} objectives are named")
        return ParetoFront(names)

    def data(self, trials: pd.DataFrame) -> FrontData:
        schema = schema_of(trials)
        if trials.empty:
            raise UserError("no finished trial to draw")
        front, left_out = _with_two_axes(trials, self._objectives)
        (y, x), frame = front.objectives, front.rows
        swept = [name for name in knobs_of(frame.columns) if frame[f"requested_{name}"].notna().any()]
        varied = [name for name in swept if frame[f"requested_{name}"].nunique(dropna=False) > 1] or swept
        title, timing = _style.heading(frame)
        names = model_names(frame)
        models = tuple(sorted(names.unique())) if names.nunique() > 1 else ()
        rows = frame[_columns_of_marks(frame, (x, y), schema)].to_dict("records")  # a row of all columns is slow
        marks = [
            _mark(row, (x, y), schema, varied, model if models else "") for row, model in zip(rows, names, strict=True)
        ]
        count = sum(mark.on_front for mark in marks)
        cut = any(_cut([mark.x for mark in marks])) or any(_cut([mark.y for mark in marks]))
        far = ", cut at the edge where one is far wider than all points" if cut else ""
        far += ", left out where too many" if len(marks) > MANY else ""
        summary = f"{count} of {len(marks)} configurations on the front{_tiers(marks)}; bars: 95 % intervals{far}"
        doubt = trials.attrs.get("doubt_of", {}).get(front.name)
        rests_on = "; ".join(doubt.captions) if doubt is not None else ""
        return FrontData(
            title=title,
            subtitle="; ".join(filter(None, [summary, rests_on, left_out, timing])),
            x_label=_style.quantity(x).label,
            y_label=_style.quantity(y).label,
            label_key=" · ".join(varied),
            logarithmic=_is_wide([mark.x for mark in marks]),
            marks=tuple(sorted(marks, key=lambda mark: (mark.x.value, -mark.y.value, mark.trial))),
            models=models,
            rising=(x.better == "lower", y.better == "lower"),
            band=_band(frame, (x, y)),
        )

    def draw(self, data: FrontData, figure: Figure) -> None:
        below = _style.write_heading(figure, data.title, data.subtitle)
        below = _draw_legend(figure, data, below) + 2 * _style.LINE_INCHES  # for the key and what is left out
        bottom, height = 0.5 / figure.get_figheight(), figure.get_figheight()
        axes = figure.add_axes((0.085, bottom, 0.895, 1 - below / height - bottom))
        _style.clean(axes)
        _set_limits(axes, data)
        for shade, saturated in itertools.product(("no", "possibly", "surely"), (False, True)):
            for model in data.models or ("",):
                style = _look(data.models, model, shade=shade, saturated=saturated)
                alike = (shade, saturated, model)
                _draw_marks(axes, [m for m in data.marks if (m.shade, m.saturated, m.model) == alike], style)
        _set_limits(axes, data)
        corners = _draw_steps(axes, data)
        axes.set_xlabel(data.x_label)
        axes.set_ylabel(data.y_label)
        _draw_labels(axes, data, corners)


def _with_two_axes(trials: pd.DataFrame, names: Sequence[str] = ()) -> tuple[Front, str]:
    """The front of quality and latency, or of two named objectives, and a remark on the trials that it leaves out.

    Raises:
        UserError: no trial measured both.
    """
    found, wanted = fronts_of(trials, names), " and ".join(names or ("accuracy", "latency"))
    two = next((front for front in found.fronts if len(front.objectives) == 2), None)
    if two is None:
        measured = sorted({one.column for front in found.fronts for one in front.objectives})
        raise UserError(f"no trial measured both {wanted}, only {' or '.join(measured)}")
    others = len(trials) - len(two.rows)
    return two, f"{others} without both left out" if others else ""


def _columns_of_marks(frame: pd.DataFrame, objectives: Sequence[Objective], schema: Any) -> list[str]:
    """The columns that ``_mark`` looks at."""
    ends = [name for one in objectives for name in _style.interval_columns(one.column, schema) or ()]
    of_knobs = [f"{kind}_{name}" for name in knobs_of(frame.columns) for kind in ("knob", "requested", "effect")]
    wanted = ["trial", "on_front", "front_membership", *(one.column for one in objectives), *ends, *of_knobs]
    return [name for name in dict.fromkeys(wanted) if name in frame]


def _mark(
    row: Mapping[Any, Any], objectives: tuple[Objective, Objective], schema: Any, varied: Sequence[str], model: str
) -> Mark:
    x, y = (_coordinate(row, objective, schema) for objective in objectives)
    knobs = knobs_of(row)
    return Mark(
        trial=row["trial"],
        x=x,
        y=y,
        on_front=bool(row["on_front"]),
        saturated=any(row[f"effect_{name}"] == "saturated" for name in knobs),
        label=" · ".join(_style.short(row[f"requested_{name}"]) for name in varied),
        model=model,
        membership=str(row["front_membership"]) if pd.notna(row.get("front_membership")) else "",
    )


def _tiers(marks: Sequence[Mark]) -> str:
    if not any(mark.membership for mark in marks):
        return ""
    surely, possibly = (sum(mark.membership == name for mark in marks) for name in ("surely", "possibly"))
    return f" as measured, {surely} surely, {possibly} more possibly"


def _staircase(points: Sequence[tuple[float, float]], rising: tuple[bool, bool]) -> Corners:
    """Corners along points of a front, from the one that is best on the x axis."""
    ordered = sorted(points, key=lambda point: (point[0] if rising[0] else -point[0], point[1]))
    corners = [ordered[0]]
    for x, y in ordered[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return tuple(corners)


def _band(frame: pd.DataFrame, objectives: tuple[Objective, Objective]) -> tuple[Corners, Corners] | None:
    """The fronts of the better and of the worse ends of all that may be on the front; None where they are not known."""
    names = [f"{one.column}_band_{end}" for one in objectives for end in ("low", "high")]
    if any(name not in frame for name in [*names, "front_membership"]):
        return None
    may = frame[frame["front_membership"].isin(["surely", "possibly"])]
    if may.empty or may[names].isna().any(axis=None):
        return None
    rising = (objectives[0].better == "lower", objectives[1].better == "lower")
    found = []
    for better in (True, False):
        ends = [
            may[f"{one.column}_band_{'low' if (one.sign == 1) == better else 'high'}"].to_numpy(dtype=np.float64)
            for one in objectives
        ]
        costs = np.column_stack([one.sign * values for one, values in zip(objectives, ends, strict=True)])
        on_it = non_dominated(costs)
        factors = [_style.quantity(one).factor for one in objectives]
        points = [
            (float(a) * factors[0], float(b) * factors[1]) for a, b in zip(*(e[on_it] for e in ends), strict=True)
        ]
        found.append(_staircase(points, rising))
    return found[0], found[1]


def _coordinate(row: Mapping[Any, Any], objective: Objective, schema: Any) -> Coordinate:
    factor = _style.quantity(objective).factor
    value = float(row[objective.column]) * factor
    columns = _style.interval_columns(objective.column, schema)
    low, high = (row[name] for name in columns) if columns else (None, None)
    return Coordinate(
        value=value,
        low=value if pd.isna(low) else float(low) * factor,
        high=value if pd.isna(high) else float(high) * factor,
    )


def _look(models: Sequence[str], model: str, *, shade: str, saturated: bool) -> dict[str, Any]:
    """How marks of one kind look, as arguments of ``Axes.errorbar``: the surer a member, the darker."""
    colour, marker = (DOMINATED, "s") if shade == "no" else (_style.BLUE, "o")
    if models:  # the shape and the colour say which model it is, so being dominated is said by a pale colour
        colour, marker = _of_model(models, model)
    if shade != "surely" and (models or shade == "possibly"):
        colour = _pale(colour, 0.55 if shade == "possibly" else 0.35 if models else 1.0)
    return {
        "fmt": marker,
        # Hollow marks are larger: a saturated value does the same work as another one, and shows as a ring around it.
        "markersize": (4.5 if shade == "no" else 5.5) + (2.5 if saturated else 0.0),
        "color": colour,
        "markerfacecolor": "white" if saturated else colour,
        "zorder": ("no", "possibly", "surely").index(shade) / 2 + 3 - 0.5 * saturated,
        **_style.BARS,
    }


def _of_model(models: Sequence[str], model: str) -> tuple[str, str]:
    """Colour and shape of a model among those of the figure."""
    i = models.index(model)
    return _style.OF_MODELS[i % len(_style.OF_MODELS)], _style.MARKERS[i % len(_style.MARKERS)]


def _pale(colour: str, kept: float) -> str:
    """The colour with this share of it kept, and white for the rest."""
    red, green, blue = (1 - kept + kept * part for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _draw_marks(axes: Axes, marks: Sequence[Mark], style: dict[str, Any]) -> None:
    """Draw marks of one style; very many as small dots without intervals, and as pixels also in SVG."""
    if not marks:
        return
    if len(marks) > MANY:
        xs, ys = [mark.x.value for mark in marks], [mark.y.value for mark in marks]
        axes.scatter(xs, ys, s=4, color=style["color"], linewidths=0, zorder=style["zorder"], rasterized=True)
        return
    axes.errorbar(
        [mark.x.value for mark in marks],
        [mark.y.value for mark in marks],
        xerr=_style.bars([(mark.x.value, mark.x.low, mark.x.high) for mark in marks]),
        yerr=_style.bars([(mark.y.value, mark.y.low, mark.y.high) for mark in marks]),
        **style,
    )


def _is_wide(latencies: Sequence[Coordinate]) -> bool:
    """Whether the values span so much, or a value and the end of an interval a decade."""
    values = [one.value for one in latencies]
    lowest, highest = min(one.low for one in latencies), max(one.high for one in latencies)
    spread = min(values) > 0 and max(values) >= LOGARITHMIC_FROM * min(values)
    return lowest > 0 and (spread or highest >= 10 * lowest)


def _cut(coordinates: Sequence[Coordinate]) -> list[bool]:
    """Which intervals leave the figure: they are so much wider than what all points span that these would be one."""
    low, high = _reach(coordinates)
    return [one.low < low or one.high > high for one in coordinates]


def _reach(coordinates: Sequence[Coordinate]) -> tuple[float, float]:
    """What an axis shows of intervals at most: the span of all values, and a few usual intervals on both sides."""
    values = [one.value for one in coordinates]
    usual = float(np.median([one.high - one.low for one in coordinates]))
    room = max(1.5 * (max(values) - min(values)), 3 * usual)
    return min(values) - room, max(values) + room


def _set_limits(axes: Axes, data: FrontData) -> None:
    if data.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(*_limits(axes.xaxis.get_transform(), [mark.x for mark in data.marks]))
    axes.set_ylim(*_limits(axes.yaxis.get_transform(), [mark.y for mark in data.marks]))


def _limits(scale: Transform, coordinates: Sequence[Coordinate]) -> tuple[float, float]:
    """The ends of all intervals and a margin, which is equal on both sides in the scale of the axis."""
    least, most = _reach(coordinates)
    lowest = max(least, min(point.low for point in coordinates))
    highest = min(most, max(point.high for point in coordinates))
    if lowest <= 0 < min(point.low for point in coordinates):
        lowest = min(point.low for point in coordinates)  # an axis that may be logarithmic has no 0
    ends = np.array([lowest, highest])
    low, high = scale.transform(ends)
    margin = 0.07 * (high - low or abs(high) or 1.0)
    left, right = scale.inverted().transform(np.array([low - margin, high + margin]))
    return float(left), float(right)


def _draw_steps(axes: Axes, data: FrontData) -> list[tuple[float, float]]:
    """Draw the staircase, extended to the edges at which both objectives are worst; returns its corners."""
    steps, (x_rises, y_rises) = data.steps, data.rising
    bottom, right = axes.get_ylim()[y_rises], axes.get_xlim()[x_rises]
    corners = [(steps[0][0], bottom), *steps, (right, steps[-1][1])]
    xs, ys = zip(*corners, strict=True)
    axes.plot(xs, ys, color=_style.VERMILION, linewidth=1.1, alpha=0.7, zorder=2)
    axes.fill_between(xs, ys, bottom, color=_style.VERMILION, alpha=0.04, linewidth=0, zorder=1)
    if data.band is not None:
        better, worse = ([(one[0][0], bottom), *one, (right, one[-1][1])] if one else [] for one in data.band)
        outline = np.array([*better, *worse[::-1]])
        axes.fill(outline[:, 0], outline[:, 1], color=_style.VERMILION, alpha=0.16, linewidth=0, zorder=1.5)
    return corners


def _draw_legend(figure: Figure, data: FrontData, below: float) -> float:
    entries: list[Artist] = []
    for model in data.models:
        colour, marker = _of_model(data.models, model)
        entries.append(_entry(model, marker, colour, filled=True))
    doubtful = any(mark.membership for mark in data.marks)
    if not data.models:
        entries = [_entry("surely on the front" if doubtful else "on the front", "o", _style.BLUE, filled=True)]
        if doubtful:
            entries.append(_entry("possibly", "o", _pale(_style.BLUE, 0.55), filled=True))
    elif doubtful:
        entries.append(Patch(color=_style.GREY, label="lighter: possibly on the front"))
    line = "the front as measured" if doubtful else "the front"
    entries.append(Line2D([], [], color=_style.VERMILION, linewidth=1.1, alpha=0.7, label=line))
    if data.band is not None:
        entries.append(Patch(color=_style.VERMILION, alpha=0.16, label="its 95 % band"))
    if any(mark.shade == "no" for mark in data.marks):
        plain = _entry("dominated", "s", DOMINATED, filled=True)
        entries.append(Patch(color=_style.PALE, label="pale: dominated") if data.models else plain)
    if any(mark.saturated for mark in data.marks):
        entries.append(_entry("saturated: a limit that did not bind", "o", _style.GREY, filled=False))
    return _style.write_legend(figure, entries, below)


def _entry(label: str, marker: str, colour: str, *, filled: bool) -> Line2D:
    face = colour if filled else "white"
    return Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, label=label)


def _draw_labels(axes: Axes, data: FrontData, corners: Sequence[tuple[float, float]]) -> None:
    if not data.label_key:
        return
    # Above the axes, where there are no data. The name of the best point is placed first, then that of the fastest.
    style: dict[str, Any] = {"transform": axes.transAxes, "fontsize": LABEL_SIZE, "va": "bottom", "color": _style.SOFT}
    axes.text(0.0, 1.01, f"labels: {data.label_key}", **style)
    obstacles = [*line_boxes(axes, corners, 1.0)]
    for mark in data.marks if len(data.marks) <= MANY else [mark for mark in data.marks if mark.on_front]:
        x_bar = [(mark.x.low, mark.y.value), (mark.x.high, mark.y.value)]
        y_bar = [(mark.x.value, mark.y.low), (mark.x.value, mark.y.high)]
        dot = [(mark.x.value, mark.y.value), (mark.x.value, mark.y.value)]
        obstacles += [*line_boxes(axes, x_bar, 1.0), *line_boxes(axes, y_bar, 1.0), *line_boxes(axes, dot, 7.0)]
    front = [mark for mark in data.marks if mark.on_front]  # from the fastest to the best
    ordered = [*front[-1:], *front[:-1]]
    spots = [(mark.x.value, mark.y.value, mark.label) for mark in ordered]
    omitted = place(axes, spots, obstacles, LABEL_SIZE)
    if omitted:
        labels, of_them = ("label", "it too") if len(omitted) == 1 else ("labels", "all of them")
        note = f"{len(omitted)} {labels} left out for lack of space; the table has {of_them}"
        figure = axes.get_figure(root=True)
        assert figure is not None
        line = _style.LINE_INCHES * figure.dpi / axes.get_window_extent().height
        axes.text(0.0, 1.01 + line, note, **style)


PLOT = ParetoFront()
