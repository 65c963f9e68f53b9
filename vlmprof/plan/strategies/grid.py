"""Every combination of knob values, in the job's order; the last knob varies fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import final

from vlmprof.plan.point import Point
from vlmprof.plan.strategy import AbstractStrategy, Space


@final
class Grid(AbstractStrategy):
    """The full factorial of the space."""

    def __init__(self, space: Space) -> None:
        self._points: Iterator[Point] = (
            Point.of(dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())
        )

    @classmethod
    def size(cls, space: Space) -> int:
        """The product of the numbers of values."""
        return math.prod(len(values) for values in space.values())

    def ask(self) -> Point | None:
        return next(self._points, None)

    def tell(self, point: Point, objectives: Mapping[str, float]) -> None:
        """A grid does not learn."""


STRATEGY = Grid
