"""Every exception that vlmprof raises on purpose, and which of them the user can fix.

::

    VlmprofError
    ├── UserError              the user can fix this: one line on the terminal, no trace, exit code 2
    │   ├── UnknownNameError   a leaf (knob, model, task, ...) that does not exist; names the nearest
    │   ├── SpecError          every fault of a job file, reported at once
    │   ├── KnobValueError     a knob value that is illegal, or illegal for this model
    │   ├── ModelError         a checkpoint that cannot be read, or is not what its family expects
    │   ├── StoreError         a results folder that is missing, foreign or locked
    │   └── NothingYet         a submitted sweep that has written no results so far
    ├── OutOfMemory            the device could not hold a batch; the batch sizer then chooses a smaller one
    ├── Mismatch               what ran is not what was planned; the trial fails, none of its rows is used
    ├── NotFinite              a model computed NaN or infinity; the trial fails, for its answers and times mean nothing
    ├── Superseded             another process has taken over this trial; results of this process are refused
    └── Uncollected            the collector did not store the results of a trial; the trial itself did not fail

Anything else that escapes is a bug and keeps its trace.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar, final


class VlmprofError(Exception):
    """Root of all exceptions that vlmprof raises on purpose."""


class UserError(VlmprofError):
    """An error that the user can fix; the message says how."""


@final
class UnknownNameError(UserError):
    """A name that no leaf of its kind has."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        super().__init__(f"no {kind} named '{shortened(name)}'{suggestion(name, known)}")


@final
class KnobValueError(UserError):
    """A knob value that is illegal for every model, or for this one."""


@final
class ModelError(UserError):
    """A checkpoint that cannot be read, or is not what its family expects."""


@final
class StoreError(UserError):
    """A results folder that is missing, not written by vlmprof, locked by another sweep, or unreadable."""


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
        field, problem = shortened(self.field, 160), shortened(self.problem, LONGEST_PROBLEM)
        return f"{field}: {problem}" if field else problem


@final
class SpecError(UserError):
    """Every fault of one job file."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source, self.faults = source, tuple(faults)
        count = len(self.faults)
        head = f"{source}: {count} fault{'s' if count != 1 else ''}"
        shown, more = first_of(self.faults)
        lines = [f"  {fault}" for fault in shown]
        super().__init__("\n".join([head, *lines, *([f"  ... {more}; mend these first"] if more else [])]))


@final
class OutOfMemory(VlmprofError):
    """The device could not hold this batch.

    Raised after the failed stack frame has been released, so that this exception keeps no tensor alive.
    """

    def __init__(self, batch_size: int, detail: str, *, size_limit: bool = False) -> None:
        """``size_limit``: a kernel cannot index so many elements; more memory would not help."""
        self.batch_size, self.detail, self.size_limit = batch_size, detail, size_limit
        what = "too large for a kernel" if size_limit else "out of memory"
        super().__init__(f"{what} at batch size {batch_size}: {detail}")


@final
class Mismatch(VlmprofError):
    """What ran is not what was planned."""


@final
class NotFinite(VlmprofError):
    """A model computed NaN or infinity."""


@final
class Superseded(VlmprofError):
    """This process was taken for dead, and another has taken over its trial, or the trial has ended.

    Its results are refused, and it must write no more.
    """


@final
class Uncollected(VlmprofError):
    """The collector did not store the results of a trial, for the reason in ``__cause__``; the trial did not fail."""


T = TypeVar("T")
LONGEST_INPUT, LONGEST_PROBLEM = 120, 1200
"""Characters of what a user gave, and of all that is said about it: a message is for reading, whatever was given."""


def shortened(text: str, most: int = LONGEST_INPUT) -> str:
    """The text, or its beginning with ``...`` and its length, where it is longer than ``most``."""
    return text if len(text) <= most else f"{text[: max(0, most - 3)]}... ({len(text):,} characters)"


def refused_by_the_system(error: OSError, place: str) -> str:
    """Why a file or folder that a user named cannot be used: the path that the system refused, and its reason."""
    path = error.filename if isinstance(error.filename, str) else place
    return f"{as_written(path)} cannot be read: {error.strerror or error}"


LISTED = 60
"""So many names or faults are listed in a message; a folder may have thousands of files, a grid as many values."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most similar to ``name``, or None if none is similar."""
    matches = difflib.get_close_matches(name[:LONGEST_INPUT], known, n=1, cutoff=0.5)
    return matches[0] if matches else None


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown ``name``: the nearest name, then all names."""
    near = nearest(name, known)
    hint = f"; did you mean '{near}'?" if near else ""
    shown, more = first_of(sorted(known))
    return f"{hint} (there are: {', '.join(shown) or 'none'}{more and ' '}{more})"


def first_of(items: Sequence[T]) -> tuple[Sequence[T], str]:
    """As many as a message shows, and ``and 7 more`` for the others, or an empty text."""
    return items[:LISTED], f"and {len(items) - LISTED:,} more" if len(items) > LISTED else ""


def as_written(value: object) -> str:
    """A value in a message, as YAML and JSON write it: ``null``, ``true``, ``'red'``, ``[1, 2]``, ``{keep: 2}``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        parts = [f"{shortened(str(key), 40)}: {as_written(item)}" for key, item in _first(value.items())]
        return shortened(f"{{{', '.join(parts)}{_and_more(value)}}}", LONGEST_VALUE)
    if isinstance(value, list | tuple):
        return shortened(f"[{', '.join(map(as_written, _first(value)))}{_and_more(value)}]", LONGEST_VALUE)
    if isinstance(value, str) and value.isprintable():
        return f"'{shortened(value)}'"
    text = repr(value) if isinstance(value, str | bytes) else str(value)  # a line break must not break the message
    return shortened(text)


LONGEST_VALUE, MOST_PARTS = 300, 40


def _first(parts: Iterable[T]) -> list[T]:
    return list(itertools.islice(parts, MOST_PARTS))


def _and_more(parts: Sized) -> str:
    return f", ... {len(parts) - MOST_PARTS:,} more" if len(parts) > MOST_PARTS else ""


NO_TEXT = "\ufffd"


def as_text(text: str) -> str:
    """The text with ``NO_TEXT`` for each half of a character (a lone surrogate), which UTF-8 cannot write."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
