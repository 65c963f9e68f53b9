"""``Progress``: the progress report of a trial, small enough to be sent after every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Phase = Literal["load", "count", "score", "audit", "wait", "warm up", "time"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total`` units of work of the current phase, such as samples while scoring."""

    phase: Phase
    done: int
    total: int
    note: str = ""
    """Why it goes on, where a number does not say it."""
