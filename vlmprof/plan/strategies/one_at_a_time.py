"""The model as it was trained, then every value of every knob alone: a cross through the space instead of all of it.

As many trials as there are values, where a grid multiplies them. It shows what each knob does and nothing of what two
do together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from vlmprof.plan.point import Point
from vlmprof.plan.strategy import AbstractStrategy, Space


@final
class OneAtATime(AbstractStrategy):
    """One knob a trial, in the job's order; the first trial sets none."""

    def __init__(self, space: Space) -> None:
        alone = (Point.of({name: value}) for name, values in space.items() for value in values)
        self._points: Iterator[Point] = iter([Point.of({}), *alone])

    def ask(self) -> Point | None:
        return next(self._points, None)

    def tell(self, point: Point, objectives: Mapping[str, float]) -> None:
        """A cross has nothing to learn."""


STRATEGY = OneAtATime
