"""What the knobs have in common that say how a model is loaded: one of a few words, read back from its modules."""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.errors import KnobValueError, suggestion
from vlmprof.records import Effect, Observation


def check_word(name: str, value: object, words: Sequence[str], of: str) -> None:
    """Refuse a value that is none of the words.

    Raises:
        KnobValueError: names what there is, and the nearest.
    """
    if value not in words:
        near = suggestion(value, list(words)).split(" (there are")[0] if isinstance(value, str) else ""
        raise KnobValueError(f"{name}: {of} takes {', '.join(words)}; got {value!r}{near}")


def judged(name: str, value: str, usual: str, seen: Observation) -> Effect:
    """Whether the loaded model computes as it was asked to; ``no-op`` where it would have without being asked."""
    if seen.loaded.get(name) != value:
        return "mismatch"
    return "no-op" if value == usual else "effective"
