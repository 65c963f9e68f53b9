"""``BatchPrefetcher``: the next batches opened and encoded on threads while the GPU works on this one; off on a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import final

from vlmprof.engine.vision_cache import PreparedBatch, RowwiseVision
from vlmprof.models.family import AbstractModel
from vlmprof.records import Picture
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import OpenedSamples, Sample
from vlmprof.trial.samples import open_pictures

MOST_AHEAD = 4
"""Batches of pixels that the host holds at once."""


@final
class BatchPrefetcher:
    """The batches after this one, opened and encoded beside the work of the device. On a CPU there is no beside.

    A context manager: what was begun has ended when it is left, so that it never sees the knobs of another trial.
    """

    def __init__(self, loaded: LoadedModel, wait: Callable[[Iterable[Picture]], None]) -> None:
        """``wait`` is called before pictures are opened: others may be decoding them. Several threads may call it."""
        self.loaded, self._wait = loaded, wait
        self.most = prefetch_depth(loaded.model)
        """How many of the next batches are worked on while this one is."""
        self._workers = ThreadPoolExecutor(self.most) if self.most else None
        self._coming: dict[tuple[str, ...], Future[tuple[OpenedSamples, PreparedBatch | None]]] = {}

    def __enter__(self) -> BatchPrefetcher:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=True, cancel_futures=True)

    def take(
        self, asked: Sequence[Sample], left: Sequence[Sample]
    ) -> tuple[OpenedSamples, Callable[[], PreparedBatch]]:
        """This batch, and a start on those of the same size that will follow if all goes well.

        Args:
            asked: This batch.
            left: All that comes after it.
        """
        coming, self._coming = self._coming, {}
        waiting = coming.pop(_names(asked), None)
        if self._workers is not None:
            for batch in islice(batched(left, max(1, len(asked))), self.most):
                known = coming.pop(_names(batch), None)
                self._coming[_names(batch)] = known or self._workers.submit(self._prepare, batch)
        for other in coming.values():  # of another size, from before the sizes changed
            other.cancel()
        opened, prepared = waiting.result() if waiting is not None else (self._open(asked), None)
        if prepared is None:
            return opened, partial(self.loaded.prepare, opened.readable)
        return opened, partial(_same, prepared)

    def _open(self, asked: Sequence[Sample]) -> OpenedSamples:
        self._wait(one.prompt.picture for one in asked)
        return open_pictures(asked)

    def _prepare(self, asked: Sequence[Sample]) -> tuple[OpenedSamples, PreparedBatch | None]:
        opened = self._open(asked)
        return opened, self.loaded.prepare(opened.readable) if opened.readable else None


def prefetch_depth(model: AbstractModel) -> int:
    """Batches that are encoded beside the work of the device, each by a thread of its own.

    Cutting a batch's images takes a core longer than the device needs to look at them; a quarter of the cores leaves
    room for other trials of the host. One thread where the encoding is a library's: its tokenizers change when they
    pad, and two threads must not do that at once.
    """
    if not model.device.startswith("cuda"):
        return 0
    return max(1, min(MOST_AHEAD, (os.cpu_count() or 1) // 4)) if isinstance(model, RowwiseVision) else 1


def _same(prepared: PreparedBatch) -> PreparedBatch:
    return prepared


def _names(asked: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(one.example.id for one in asked)


def batched(asked: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Consecutive batches; the last may be smaller."""
    return (asked[start : start + size] for start in range(0, len(asked), size))
