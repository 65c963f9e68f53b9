"""Knowing when all rows have ended, without making the device wait to be asked.

Looking at a token on the host waits for the step that makes it, and meanwhile the device has nothing to do. So on a
GPU the step after is launched first, and then the one before is looked at: the copy to the host runs beside the next
step. One step too many is made at most; on the host nothing is copied and none is.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class EosTracker:
    """The tokens of all steps so far, and which rows have ended."""

    def __init__(self, first: Tensor, stop: frozenset[int]) -> None:
        """Start with the first tokens, (batch,)."""
        self.taken: list[Tensor] = []
        """(batch,) of every step, on the host once the device has done all that was asked of it."""
        self._arrived: list[torch.cuda.Event | None] = []
        self._stop, self._open, self._looked = stop, set(range(len(first))), 0
        self._late = first.is_cuda
        self.take(first)

    def take(self, tokens: Tensor) -> None:
        """Note a step's tokens, (batch,); they may still be in the making."""
        self.taken.append(tokens.to("cpu", non_blocking=True))  # into pinned memory, beside what runs next
        wait_for_startup = None
        if self._late and self._stop:
            wait_for_startup = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch types it not
            wait_for_startup.record()
        self._arrived.append(wait_for_startup)

    def over(self) -> bool:
        """Whether every row has ended, as far as can be known without waiting for the step made last."""
        if not self._stop:
            return False
        until = len(self.taken) - (1 if self._late and len(self.taken) > 1 else 0)
        while self._looked < until and self._open:
            wait_for_startup = self._arrived[self._looked]
            if wait_for_startup is not None:
                wait_for_startup.synchronize()
            said = self.taken[self._looked].tolist()
            self._open -= {row for row in self._open if said[row] in self._stop}
            self._looked += 1
        return not self._open
