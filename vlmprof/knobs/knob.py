"""``AbstractKnob``: one inference-time control.

A knob declares the surface it needs, checks which values are legal (from the model's anatomy, without weights), applies
a value to a model and undoes it, and judges from counts whether the value took effect. One loaded model serves many
trials, so ``applied`` is a context manager that restores the model exactly, also on error.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from vlmprof.errors import KnobValueError, as_written
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenCounts


class AbstractKnob(ABC):
    """One control: is a value legal, how is it applied, and what effect did it have."""

    needs: ClassVar[type]
    """The surface (``vlmprof.surfaces``) this knob touches."""

    load_argument: ClassVar[str] = ""
    """The field of ``models.family.Checkpoint`` that takes the value, for a knob that decides how the model is loaded;
    the trials of a sweep are then grouped by value, one load per group. Empty for a knob that acts on a loaded
    model."""

    @abstractmethod
    def check(self, value: Any, anatomy: Anatomy) -> None:
        """Refuse a value that this model cannot take. Runs on the driver, without weights.

        Raises:
            KnobValueError: the value is not legal; the message says what was expected.
        """

    def conflict(self, value: Any, others: Mapping[str, Any], anatomy: Anatomy) -> str | None:
        """Why a legal value cannot be combined with the other knobs' values of a point; None (the default): it can.

        Args:
            value: A legal value of this knob.
            others: Knob -> value, for the rest of the point.
            anatomy: What the checkpoint is made of.
        """
        return None

    def axis(self, value: Any) -> float | None:
        """The number a value is plotted at. Override it where the length of a list is not that number."""
        return axis(value)

    def counts(self, value: Any, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        """What an image of this size becomes under a value; None for a knob that does not affect images."""
        return None

    def work(self, value: Any, anatomy: Anatomy) -> Hashable:
        """Equal for values that compute the same, besides what ``counts`` says; None for what the model does anyway."""
        return json.dumps(value, sort_keys=True, default=list)

    @abstractmethod
    def applied(self, model: Any, value: Any) -> AbstractContextManager[None]:
        """Set the value on ``model``, which provides the surface ``needs``, for the length of a ``with`` block."""

    @abstractmethod
    def effect(self, value: Any, anatomy: Anatomy, observed: Observation) -> Effect:
        """The effect of the value, judged by what was counted during the trial."""


def axis(value: Any) -> float | None:
    """The number a knob's value is plotted at: itself, the blocks kept or dropped, a list's length; None for text."""
    if isinstance(value, dict):
        return float(value["keep"]) if "keep" in value else float(len(value["drop"]))
    if isinstance(value, list | tuple):
        return float(len(value))
    return None if isinstance(value, str) else float(value)


def require_integer(value: Any, *, low: int, high: int | None = None, name: str) -> None:
    """Refuse anything but a whole number from ``low`` to ``high``, or without an upper limit where ``high`` is None.

    Raises:
        KnobValueError: with the knob, the range and the value.
    """
    bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise KnobValueError(f"{name}: expected a whole number {bound}, got {as_written(value)}")
