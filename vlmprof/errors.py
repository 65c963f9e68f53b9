"""Every exception vlmprof raises on purpose, and which of them the user can mend.

::

    VlmprofError
    ├── UserError              the user can fix this: one line on the terminal, no trace, exit code 2
    │   ├── UnknownNameError   a leaf (knob, model, task, ...) that does not exist; names the nearest
    │   ├── SpecError          every fault of a job file, reported at once
    │   ├── KnobValueError     a knob value that is illegal, or illegal for this model
    │   ├── ModelError         a checkpoint that cannot be read, or is not what its family expects
    │   ├── StoreError         a results folder that is missing, foreign or locked
    │   └── NothingYet         a submitted sweep that has written no results so far
    ├── OutOfMemory            the device could not hold a batch; the batch sizer answers it
    ├── Mismatch               what ran is not what was asked for; the trial fails, no row is trusted
    ├── Superseded             another process has taken this trial; what this one has to say is refused
    └── Uncollected            the collector did not take what a trial gave it: no fault of the trial

Anything else that escapes is a bug and keeps its trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final


class VlmprofError(Exception):
    """Root of all exceptions that vlmprof raises on purpose."""


class UserError(VlmprofError):
    """The user can fix this; the message says how."""


@final
class UnknownNameError(UserError):
    """A name that no leaf of its kind has."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        super().__init__(f"no {kind} named '{name}'{suggestion(name, known)}")


@final
class KnobValueError(UserError):
    """A knob value that no model, or not this model, can take."""


@final
class ModelError(UserError):
    """A checkpoint that cannot be read, or is not what its family expects."""


@final
class StoreError(UserError):
    """A results folder that is missing, not ours, locked by another sweep, or unreadable."""


@final
class NothingYet(UserError):
    """A submitted sweep that has written no results so far."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with a job file: where, what was given, what was expected."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


@final
class SpecError(UserError):
    """Every fault of one job file."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source, self.faults = source, tuple(faults)
        count = len(self.faults)
        head = f"{source}: {count} fault{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in self.faults)]))


@final
class OutOfMemory(VlmprofError):
    """The device could not hold this batch.

    Raised after the failed frame has been left, so that catching it holds no tensor alive.
    """

    def __init__(self, batch_size: int, detail: str, *, size_limit: bool = False) -> None:
        """``size_limit``: not memory, a kernel cannot index so much; more memory would not help."""
        self.batch_size, self.detail, self.size_limit = batch_size, detail, size_limit
        what = "too large for a kernel" if size_limit else "out of memory"
        super().__init__(f"{what} at batch size {batch_size}: {detail}")


@final
class Mismatch(VlmprofError):
    """What ran is not what the plan asked for."""


@final
class Superseded(VlmprofError):
    """Another process has taken this trial, or it has ended: this one was believed dead, and must be quiet."""


@final
class Uncollected(VlmprofError):
    """The collector did not take what a trial gave it. Raised from the reason; the trial itself has not failed."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like ``name``, or None when none is near."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return matches[0] if matches else None


def suggestion(name: str, known: Sequence[str]) -> str:
    """The tail of an error about ``name``: the nearest name, then all there are."""
    near = nearest(name, known)
    hint = f"; did you mean '{near}'?" if near else ""
    return f"{hint} (there are: {', '.join(sorted(known)) or 'none'})"
