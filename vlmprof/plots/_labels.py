"""Where to write the name of a point so that it covers nothing: no other name, point, bar or line."""

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
"""From this distance on a thin line says which point a name belongs to."""

Spot = tuple[float, float, str]
Polar = tuple[float, float]
"""Distance from the point in points, and angle."""
PLACES: tuple[Polar, ...] = tuple((distance, angle) for distance in DISTANCES_POINTS for angle in ANGLES)
ACROSS: dict[float, Literal["left", "center", "right"]] = {0.0: "left", 0.5: "center", 1.0: "right"}
ALONG: dict[float, Literal["bottom", "center", "top"]] = {0.0: "bottom", 0.5: "center", 1.0: "top"}


def place(axes: Axes, spots: Sequence[Spot], obstacles: Iterable[Bbox], size: float) -> list[str]:
    """Write each name beside its point (x, y, name; in data units), nearest free place first.

    Args:
        axes: limits and scales must be final.
        spots: points and their names.
        obstacles: boxes in display units that no name may touch.
        size: of the type, in points.

    Returns:
        The names for which there was no free place; they are not written.
    """
    taken = list(obstacles)
    left_over = []
    for x, y, name in spots:
        room = _room(axes, name, size)
        across, up = axes.transData.transform((x, y))
        point = (float(across), float(up))
        free = next((polar for polar in PLACES if _fits(axes, _box(axes, point, room, polar), taken)), None)
        if free is None:
            left_over.append(name)
        else:
            taken.append(_box(axes, point, room, free).padded(1.5))
            _write(axes, (x, y), name, size, free)
    return left_over


def line_boxes(axes: Axes, corners: Sequence[tuple[float, float]], width_pixels: float) -> list[Bbox]:
    """Boxes in display units around the straight, axis-parallel parts of a line given in data units."""
    pixels = axes.transData.transform(list(corners))
    return [
        Bbox.from_extents(*pixels[i : i + 2].min(axis=0), *pixels[i : i + 2].max(axis=0)).padded(width_pixels)
        for i in range(len(pixels) - 1)
    ]


def _fits(axes: Axes, box: Bbox, taken: Sequence[Bbox]) -> bool:
    inside = axes.get_window_extent()
    within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
    return within and not any(box.overlaps(other) for other in taken)


def _room(axes: Axes, name: str, size: float) -> tuple[float, float]:
    """Width and height of the words, in pixels."""
    probe = axes.text(0, 0, name, fontsize=size)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _alignment(polar: Polar) -> tuple[float, float]:
    """Which part of the words stands at their anchor: 0 is left or bottom, 1 is right or top."""
    right, up = math.cos(polar[1]), math.sin(polar[1])
    return (0.5 if abs(right) < 0.4 else float(right < 0)), (0.5 if abs(up) < 0.4 else float(up < 0))


def _box(axes: Axes, point: tuple[float, float], room: tuple[float, float], polar: Polar) -> Bbox:
    figure = axes.get_figure(root=True)
    assert figure is not None
    reach = polar[0] * figure.dpi / 72
    across, along = _alignment(polar)
    left = point[0] + reach * math.cos(polar[1]) - across * room[0]
    bottom = point[1] + reach * math.sin(polar[1]) - along * room[1]
    return Bbox.from_bounds(left, bottom, *room)


def _write(axes: Axes, point: tuple[float, float], name: str, size: float, polar: Polar) -> None:
    distance, angle = polar
    across, along = _alignment(polar)
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        name,
        point,
        xytext=(distance * math.cos(angle), distance * math.sin(angle)),
        textcoords="offset points",
        ha=ACROSS[across],
        va=ALONG[along],
        fontsize=size,
        color=INK,
        arrowprops=leader if distance >= LEADER_FROM_POINTS else None,
        zorder=6,
    )
