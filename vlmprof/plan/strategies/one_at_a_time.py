"""The model as it was trained, then every value of every knob, one knob at a time.

The number of trials is the sum of the numbers of values, plus one, where a grid has their product. It shows the effect
of each knob alone, and nothing about how two knobs act together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from vlmprof.plan.point import Point
from vlmprof.plan.strategy import AbstractStrategy, Space


@final
class OneAtATime(AbstractStrategy):
    """One knob in each trial, in the job's order; the first trial sets none."""

    def __init__(self, space: Space) -> None:
        single = (Point.of({name: value}) for name, values in space.items() for value in values)
        self._points: Iterator[Point] = iter([Point.of({}), *single])

    @classmethod
    def size(cls, space: Space) -> int:
        """The sum of the numbers of values, and one."""
        return 1 + sum(len(values) for values in space.values())

    def ask(self) -> Point | None:
        return next(self._points, None)

    def tell(self, point: Point, objectives: Mapping[str, float]) -> None:
        """This strategy does not learn."""


STRATEGY = OneAtATime
