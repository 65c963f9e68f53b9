"""Shared by the knobs that decide how a model is loaded: a fixed set of values, read back from the loaded modules."""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.errors import KnobValueError, as_written, suggestion
from vlmprof.records import Effect, Observation


def require_one_of(name: str, value: object, choices: Sequence[str], architecture: str) -> None:
    """Refuse a value that is none of the choices.

    Args:
        name: The knob.
        value: The value to check.
        choices: The legal values.
        architecture: Of the model, for the message.

    Raises:
        KnobValueError: with all choices and the one nearest to the value.
    """
    if value not in choices:
        nearest = suggestion(value, list(choices)).split(" (there are")[0] if isinstance(value, str) else ""
        raise KnobValueError(
            f"{name}: expected one of {', '.join(choices)} for {architecture}; got {as_written(value)}{nearest}"
        )


def load_effect(name: str, value: str, default: str, observed: Observation) -> Effect:
    """``mismatch`` unless the model was loaded with the value; ``no-op`` where the value is the default."""
    if observed.loaded.get(name) != value:
        return "mismatch"
    return "no-op" if value == default else "effective"
