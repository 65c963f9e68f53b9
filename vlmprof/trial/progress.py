"""How far a trial has come: small enough to be sent every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Phase = Literal["load", "count", "score", "audit", "wait", "warm up", "time"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a trial has come."""

    phase: Phase
    done: int
    total: int
    note: str = ""
    """Why it goes on, where a number does not say it."""
