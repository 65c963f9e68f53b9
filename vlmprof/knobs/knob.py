"""``AbstractKnob``: one inference-time control.

A knob says which surface it needs, which values are legal (from the model's anatomy, without weights), how to apply a
value and undo it, and whether the value did what it says. One loaded model outlives many trials, so ``applied`` is a
context manager that restores the model exactly, also on error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from vlmprof.errors import KnobValueError
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, TokenCounts


class AbstractKnob(ABC):
    """One control, in three questions."""

    needs: ClassVar[type]
    """The surface (``vlmprof.surfaces``) this knob touches."""

    load_argument: ClassVar[str] = ""
    """The field of ``models.family.Checkpoint`` that a value is put into, for a knob that says how the model is loaded:
    its values split a sweep into groups, a load each. Empty for a knob that turns a loaded model."""

    @abstractmethod
    def check(self, value: Any, anatomy: Anatomy) -> None:
        """Whether this model can take this value; runs on the driver, without weights.

        Raises:
            KnobValueError: it cannot; says what was expected.
        """

    def conflict(self, value: Any, others: Mapping[str, Any], anatomy: Anatomy) -> str | None:
        """Why a legal value cannot stand beside the other knobs' values of a point; None, as for most, where it can.

        Args:
            value: A legal value of this knob.
            others: Knob -> value, for the rest of the point.
            anatomy: What the checkpoint is made of.
        """
        return None

    def axis(self, value: Any) -> float | None:
        """The number a value is plotted at; a knob whose lists mean something else says so itself."""
        return axis(value)

    def counts(self, value: Any, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        """What an image of this size becomes under a value; None for a knob that has no say in it."""
        return None

    @abstractmethod
    def applied(self, model: Any, value: Any) -> AbstractContextManager[None]:
        """The model with this value, for the length of a ``with`` block. ``model`` provides ``needs``."""

    @abstractmethod
    def effect(self, value: Any, anatomy: Anatomy, seen: Observation) -> Effect:
        """What the value did, judged by what was counted."""


def axis(value: Any) -> float | None:
    """The number a knob's value is plotted at: itself, how many it keeps or drops, its length; None for a word."""
    if isinstance(value, dict):
        return float(value["keep"]) if "keep" in value else float(len(value["drop"]))
    if isinstance(value, list | tuple):
        return float(len(value))
    return None if isinstance(value, str) else float(value)


def label(value: Any) -> str:
    """A knob's value as people read it: ``6``, ``prefix 4``, ``drop 0,3``, ``nested_random 4 seed 1``, ``0,1,3``."""
    if isinstance(value, dict):
        first = str(value.get("policy", ""))
        first += " " + label(value.get("keep", value.get("drop", value.get("k", ""))))
        rest = {key: item for key, item in value.items() if key not in ("policy", "keep", "drop", "k")}
        return " ".join([first.strip(), *(key if item is True else f"{key} {item}" for key, item in rest.items())])
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def require_whole(value: Any, *, low: int, high: int | None = None, of: str) -> None:
    """Refuse anything but a whole number in a range.

    Raises:
        KnobValueError: naming the range and the value.
    """
    bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise KnobValueError(f"{of}: expected a whole number {bound}, got {value!r}")
