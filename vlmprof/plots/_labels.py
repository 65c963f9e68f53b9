"""Places the names of points so that they overlap no other name, point, bar or line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from vlmprof.plots._style import GREY, INK

DISTANCES_POINTS = (5.0, 9.0, 14.0, 20.0, 27.0, 36.0)
ANGLES = tuple(math.radians(degrees) for degrees in (135, 315, 90, 270, 45, 225, 0, 180, 110, 70, 160, 20, 290, 250))
LEADER_FROM_POINTS = 12.0
"""From this distance on, a thin line connects a name with its point."""

Spot = tuple[float, float, str]
Polar = tuple[float, float]
"""Distance from the point in points, and angle."""
PLACES: tuple[Polar, ...] = tuple((distance, angle) for distance in DISTANCES_POINTS for angle in ANGLES)
HORIZONTAL: dict[float, Literal["left", "center", "right"]] = {0.0: "left", 0.5: "center", 1.0: "right"}
VERTICAL: dict[float, Literal["bottom", "center", "top"]] = {0.0: "bottom", 0.5: "center", 1.0: "top"}


def place(axes: Axes, spots: Sequence[Spot], obstacles: Iterable[Bbox], size: float) -> list[str]:
    """Write each name next to its point, at the nearest free place.

    Args:
        axes: limits and scales must be final.
        spots: (x, y, name) of the points, in data units.
        obstacles: boxes in display units that no name may overlap.
        size: font size in points.

    Returns:
        The names for which there was no free place; they are not written.
    """
    occupied = list(obstacles)
    omitted = []
    for x, y, name in spots:
        text_size = _text_size(axes, name, size)
        x_pixels, y_pixels = axes.transData.transform((x, y))
        point = (float(x_pixels), float(y_pixels))
        free = next((polar for polar in PLACES if _fits(axes, _box(axes, point, text_size, polar), occupied)), None)
        if free is None:
            omitted.append(name)
        else:
            occupied.append(_box(axes, point, text_size, free).padded(1.5))
            _write(axes, (x, y), name, size, free)
    return omitted


def line_boxes(axes: Axes, corners: Sequence[tuple[float, float]], width_pixels: float) -> list[Bbox]:
    """Boxes in display units around the straight, axis-parallel parts of a line given in data units."""
    pixels = axes.transData.transform(list(corners))
    return [
        Bbox.from_extents(*pixels[i : i + 2].min(axis=0), *pixels[i : i + 2].max(axis=0)).padded(width_pixels)
        for i in range(len(pixels) - 1)
    ]


def _fits(axes: Axes, box: Bbox, occupied: Sequence[Bbox]) -> bool:
    area = axes.get_window_extent()
    inside = area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
    return inside and not any(box.overlaps(other) for other in occupied)


def _text_size(axes: Axes, name: str, size: float) -> tuple[float, float]:
    """Width and height of the text, in pixels."""
    probe = axes.text(0, 0, name, fontsize=size)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _alignment(polar: Polar) -> tuple[float, float]:
    """Which part of the text is at its anchor, horizontally and vertically: 0 is left or bottom, 1 is right or top."""
    right, up = math.cos(polar[1]), math.sin(polar[1])
    return (0.5 if abs(right) < 0.4 else float(right < 0)), (0.5 if abs(up) < 0.4 else float(up < 0))


def _box(axes: Axes, point: tuple[float, float], text_size: tuple[float, float], polar: Polar) -> Bbox:
    figure = axes.get_figure(root=True)
    assert figure is not None
    distance_pixels = polar[0] * figure.dpi / 72
    horizontal, vertical = _alignment(polar)
    left = point[0] + distance_pixels * math.cos(polar[1]) - horizontal * text_size[0]
    bottom = point[1] + distance_pixels * math.sin(polar[1]) - vertical * text_size[1]
    return Bbox.from_bounds(left, bottom, *text_size)


def _write(axes: Axes, point: tuple[float, float], name: str, size: float, polar: Polar) -> None:
    distance, angle = polar
    horizontal, vertical = _alignment(polar)
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        name,
        point,
        xytext=(distance * math.cos(angle), distance * math.sin(angle)),
        textcoords="offset points",
        ha=HORIZONTAL[horizontal],
        va=VERTICAL[vertical],
        fontsize=size,
        color=INK,
        arrowprops=leader if distance >= LEADER_FROM_POINTS else None,
        zorder=6,
    )
