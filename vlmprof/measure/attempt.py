"""``attempted``: an instrument that fails leaves its columns empty, with the reason, and never fails a trial.

What breaks a rule of truth still does: a ``Mismatch`` passes, and so does everything that concerns the trial itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import torch

from vlmprof.errors import VlmprofError

Result = TypeVar("Result")


def attempted(instrument: str, missing: MutableMapping[str, str], measure: Callable[[], Result]) -> Result | None:
    """What ``measure`` returns, or None if it fails; the reason is then added to ``missing`` under the instrument.

    Raises:
        VlmprofError: as ``measure`` raised it: memory that does not suffice, counts that do not match.
        torch.AcceleratorError: the device's context is broken; nothing more can run in this process.
    """
    try:
        return measure()
    except (VlmprofError, torch.AcceleratorError):
        raise
    except Exception as error:  # whatever an instrument raises: a driver, a profiler, a library of another version
        missing.setdefault(instrument, reason(error))
        return None


@contextmanager
def attempted_within(
    instrument: str, missing: MutableMapping[str, str], context: AbstractContextManager[Result]
) -> Iterator[Result | None]:
    """Inside a ``with`` block ``context`` is entered, or, if entering it fails, nothing is; see ``attempted``.

    Yields:
        What ``context`` yields; None if it could not be entered.
    """
    with ExitStack() as stack:
        yield attempted(instrument, missing, partial(stack.enter_context, context))


def reason(error: Exception) -> str:
    """An exception on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
