"""``ProcessorPool``: a processor for every thread that encodes at the same time.

A tokenizer of transformers changes state in a call: whether it pads, truncates, or reads special tokens. Two threads
that share one can change it under each other, or raise ``RuntimeError: Already borrowed``. So a thread borrows a copy
for the length of a batch. Copies are kept and used again: there are as many as threads ever encoded at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final


@final
class ProcessorPool:
    """Copies of one processor, each in the hands of at most one thread."""

    def __init__(self, original: Any) -> None:
        """Nothing is copied yet. The original must not be changed any more, and is never lent."""
        self._original, self._lock = original, threading.Lock()
        self._free: list[Any] = []

    @contextmanager
    def borrowed(self) -> Iterator[Any]:
        """A copy that no other thread uses inside the ``with`` block."""
        with self._lock:
            processor = self._free.pop() if self._free else copy.deepcopy(self._original)
        try:
            yield processor
        finally:
            with self._lock:
                self._free.append(processor)
