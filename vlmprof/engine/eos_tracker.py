"""Detects that all rows have generated an end-of-sequence token, without leaving the GPU idle.

Reading a token on the host waits for the step that computes it, and meanwhile the GPU has nothing to do. So on a GPU
the next step is launched before the tokens of the step before it are read: the copy to the host overlaps with the next
step. At most one unnecessary step runs. On a CPU the tokens are read at once and no unnecessary step runs.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class EosTracker:
    """The tokens of all steps so far, and which rows have ended."""

    def __init__(self, first: Tensor, stop: frozenset[int]) -> None:
        """Start with the first tokens, (batch,), and the end-of-sequence tokens; with none, no row ever ends."""
        self.tokens: list[Tensor] = []
        """(batch,) of every step; the copies to the host are complete once the device has been synchronized."""
        self._copied: list[torch.cuda.Event | None] = []
        self._stop, self._running_rows, self._steps_read = stop, set(range(len(first))), 0
        self._on_gpu = first.is_cuda
        self.append(first)

    def append(self, tokens: Tensor) -> None:
        """Add the tokens of a step, (batch,); the device may still be computing them."""
        self.tokens.append(tokens.to("cpu", non_blocking=True))  # into pinned memory, while the next step runs
        copied = None
        if self._on_gpu and self._stop:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
            copied.record()
        self._copied.append(copied)

    def all_ended(self) -> bool:
        """Whether every row has ended, as far as is known without waiting for the last step."""
        if not self._stop:
            return False
        readable = len(self.tokens) - (1 if self._on_gpu and len(self.tokens) > 1 else 0)
        while self._steps_read < readable and self._running_rows:
            copied = self._copied[self._steps_read]
            if copied is not None:
                copied.synchronize()
            tokens = self.tokens[self._steps_read].tolist()
            self._running_rows -= {row for row in self._running_rows if tokens[row] in self._stop}
            self._steps_read += 1
        return not self._running_rows
