"""``BatchPrefetcher``: the next batches opened and encoded on threads while the model works on this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import final

from vlmprof.engine.vision_cache import PreparedBatch
from vlmprof.records import Picture
from vlmprof.trial.outcome import OpenedSamples, Sample
from vlmprof.trial.samples import open_pictures

Encode = Callable[[OpenedSamples], tuple[OpenedSamples, PreparedBatch | None]]
"""Opened samples -> those of them that can be encoded and the failed ones, and their batch; None if it is empty."""
MOST_AHEAD = 4
"""The most batches of pixels that the host holds at once."""


@final
class BatchPrefetcher:
    """Opens and encodes the batches after the current one on threads.

    A context manager: leaving it waits for the threads, so that none of them sees the knobs of the next trial.
    """

    def __init__(
        self,
        encode: Encode,
        wait: Callable[[Iterable[Picture]], None],
        unneeded: Callable[[Sample], bool] = lambda _: False,
    ) -> None:
        """Start the threads.

        Args:
            encode: Encodes a batch, from any of the threads; see ``samples.encode_samples``.
            wait: Called, from any of the threads, before pictures are opened; it returns once they are decoded, where
                other processes decode them.
            unneeded: Called, from any of the threads: whether the picture of a sample need not be opened.
        """
        self._encode, self._wait, self._unneeded = encode, wait, unneeded
        self.most = prefetch_depth()
        """How many of the next batches are in preparation at once."""
        self._threads = ThreadPoolExecutor(self.most)
        self._pending: dict[tuple[str, ...], Future[tuple[OpenedSamples, PreparedBatch | None]]] = {}

    def __enter__(self) -> BatchPrefetcher:
        return self

    def __exit__(self, *raised: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def take(
        self, samples: Sequence[Sample], remaining: Sequence[Sample]
    ) -> tuple[OpenedSamples, PreparedBatch | None]:
        """This batch, prepared; and start on those that follow at the same size.

        Args:
            samples: This batch.
            remaining: All samples after it, in order.
        """
        earlier, self._pending = self._pending, {}
        ready = earlier.pop(_ids(samples), None)
        for batch in islice(batched(remaining, max(1, len(samples))), self.most):
            started = earlier.pop(_ids(batch), None)
            self._pending[_ids(batch)] = started or self._threads.submit(self._prepare, batch)
        for outdated in earlier.values():  # of another batch size, from before it changed
            outdated.cancel()
        return ready.result() if ready is not None else self._prepare(samples)

    def _prepare(self, samples: Sequence[Sample]) -> tuple[OpenedSamples, PreparedBatch | None]:
        unneeded = {sample.example.id for sample in samples if self._unneeded(sample)}
        self._wait(sample.prompt.picture for sample in samples if sample.example.id not in unneeded)
        return self._encode(open_pictures(samples, lambda sample: sample.example.id in unneeded))


def prefetch_depth() -> int:
    """How many batches are encoded ahead, each on a thread of its own.

    Cutting a batch's images takes one core longer than a GPU takes to look at them; a quarter of the cores leaves room
    for the other trials of the host. A CPU gets at least one thread too: what threads do is then the same everywhere.
    """
    return max(1, min(MOST_AHEAD, (os.cpu_count() or 1) // 4))


def _ids(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(sample.example.id for sample in samples)


def batched(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Consecutive batches; the last may be smaller."""
    return (samples[start : start + size] for start in range(0, len(samples), size))
