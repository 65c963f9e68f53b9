"""``AbstractStrategy``: proposes points (ask) and may learn from their results (tell). It runs nothing itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmprof.plan.point import Point

Space = Mapping[str, Sequence[Any]]
"""Knob -> the values the job lists, in the job's order."""


class AbstractStrategy(ABC):
    """One search over a space; each model and task gets a new one."""

    @classmethod
    def size(cls, space: Space) -> int | None:
        """How many points it will propose, without proposing them; None where it cannot be known before."""
        return None

    @abstractmethod
    def ask(self) -> Point | None:
        """The next point to run, or None when there is none."""

    @abstractmethod
    def tell(self, point: Point, objectives: Mapping[str, float]) -> None:
        """Take the objectives of a point that has run; a strategy that does not learn ignores them."""
