"""``Snapshot``: where a sweep stands, as the terminal shows it. Imports no ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from vlmprof.store.ledger import State
from vlmprof.trial.progress import Progress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a run stands."""

    total: int
    """Trials of the job."""
    skipped: int
    """Finished by an earlier run."""
    settled: Mapping[str, State] = field(default_factory=dict)
    """Trials that ended in this run, and how."""
    running: Mapping[str, Progress] = field(default_factory=dict)
    """Trials under way, and how far."""


class Display(Protocol):
    """Whoever shows a run."""

    def update(self, snapshot: Snapshot) -> None:
        """Called a few times a second, from any thread."""
        ...

    def note(self, line: str) -> None:
        """Something a person should read once."""
        ...
