"""``Advice``: the next commands that a run names. In a submitted job these are ``submit`` and ``fetch``, because its
output is read where it was submitted, and the results folder is not there.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.submit.origin import Origin, origin


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Commands for whoever reads the output of a run."""

    again: str
    """Runs what is missing."""
    origin: Origin | None = None
    """Where the job was submitted; None for a run that its reader started himself."""

    @staticmethod
    def of(command: Sequence[str]) -> Advice:
        """For the run that was started by ``vlmprof`` with these arguments."""
        submitted = origin()
        return Advice(again=submitted.again if submitted else shlex.join(["vlmprof", *command]), origin=submitted)

    def reading(self, command: str, folder: str) -> str:
        """How to run a command that reads the results: what it needs first, and the command."""
        if self.origin is None or "://" in folder:
            return f"vlmprof {command} {shlex.quote(folder)}"
        return f"{self.origin.command('fetch', 'DIR')} && vlmprof {command} DIR"

    def place(self, folder: str) -> str:
        """A results folder, with the machine that it is on unless that is the reader's own."""
        return folder if self.origin is None or "://" in folder else f"{folder} on {platform.node()}"
