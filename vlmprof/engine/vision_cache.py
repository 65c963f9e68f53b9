"""``VisionFeatureCache``: keeps the vision features of images for later configurations that need the same ones.

Features depend on the image, on its tiling, and on the weights of vision encoder and connector; not on experts, blocks
or the length of answers. So a sweep computes them once for each image and tiling, and all knobs of the language model
share them. Used in score passes only: a timed generation computes everything.

Entries are keyed by content (the picture's key, or a hash of its pixels, and the tiling) and belong to one loaded
model, so weights and precision need no key. They are kept in host memory, pinned if there is a GPU, up to a limit in
bytes; the least recently used entry is dropped first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor

from vlmprof.decoding import Batch, Mark, TokenMaker, unmarked
from vlmprof.errors import Mismatch
from vlmprof.records import Prompt

MAX_BYTES = 16 * 2**30
MEMORY_SHARE = 1 / 8
"""Share of the memory that the host has available when a model is loaded: several trials may run on one host."""


@runtime_checkable
class RowwiseVision(Protocol):
    """A model whose batch features can be split by prompt, and whose prompts can be encoded without pixels."""

    def feature_key(self, prompt: Prompt) -> Hashable:
        """Everything except pixels and weights that a prompt's features depend on: the tiling of the image."""
        ...

    def encode_text(self, prompts: Sequence[Prompt]) -> Batch:
        """As ``encode``, without pixels: no picture is opened."""
        ...

    def split_features(self, batch: Any, features: Any) -> Sequence[Tensor]:
        """The features of each prompt of a batch, (vision tokens, width) each."""
        ...

    def join_features(self, parts: Sequence[Tensor]) -> Any:
        """The features of a batch from those of its prompts; the inverse of ``split_features``."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """A batch after its work on the host."""

    batch: Batch
    keys: tuple[Hashable, ...] = ()
    """Key of each prompt's features; empty where features are not cached and the model computes all of them."""
    cached: Mapping[Hashable, Tensor]
    """Features on the host; this reference keeps them alive if the cache drops them meanwhile."""
    missing: Batch | None = None
    """The prompts whose features are not cached, one for each image and tiling."""

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.batch.encodings)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A batch with its vision features: the inputs of the prefill."""

    batch: Batch
    """On the host."""
    device_batch: Batch
    """The same batch on the model's device."""
    features: Any
    """The output of the model's connector, one feature for each vision token."""


@final
class VisionFeatureCache:
    """The vision features of one loaded model."""

    def __init__(self, max_bytes: int | None = None) -> None:
        """Start empty; ``max_bytes`` 0 keeps nothing, None sets the limit by the host's available memory."""
        self._max_bytes = _default_max_bytes() if max_bytes is None else max_bytes
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        self.computed = 0
        """How many features were computed, one count for each image and tiling."""

    def prepare(self, model: TokenMaker, prompts: Sequence[Prompt]) -> PreparedBatch:
        """The host's part of the work: may run in a thread while the device runs another batch."""
        if not self._max_bytes or not isinstance(model, RowwiseVision):
            return PreparedBatch(batch=model.encode(prompts), cached={})
        keys = tuple(_key(model, prompt) for prompt in prompts)
        with self._lock:  # the thread that computes features drops old entries meanwhile
            cached: dict[Hashable, Tensor] = {key: self._entries[key] for key in keys if key in self._entries}
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in cached}
        missing = model.encode(list(new.values())) if new else None
        return PreparedBatch(batch=model.encode_text(prompts), keys=keys, cached=cached, missing=missing)

    def knows(self, model: TokenMaker, prompt: Prompt) -> bool:
        """Whether the features of a prompt are cached; False too where only its pixels could tell."""
        if not prompt.picture.key or not isinstance(model, RowwiseVision):
            return False
        with self._lock:
            return _key(model, prompt) in self._entries

    def complete(self, model: Any, prepared: PreparedBatch) -> Inputs:
        """A prepared batch with all its features; missing ones are computed and added to the cache.

        Raises:
            Mismatch: an image has another number of features than its prompt has image-token positions.
        """
        device_batch = model.transfer(prepared.batch)
        if not prepared.keys:
            return Inputs(batch=prepared.batch, device_batch=device_batch, features=model.see(device_batch, unmarked))
        computed = dict(self._compute_missing(model, prepared))
        with self._lock:
            for key in prepared.cached:
                if key in self._entries:
                    self._entries.move_to_end(key)
        parts = [
            computed[key] if key in computed else prepared.cached[key].to(model.device, non_blocking=True)
            for key in prepared.keys
        ]
        for encoding, part in zip(prepared.batch.encodings, parts, strict=True):
            if len(part) != encoding.vision_tokens:
                raise Mismatch(f"{len(part)} features for an image that was planned as {encoding.vision_tokens}")
        return Inputs(batch=prepared.batch, device_batch=device_batch, features=model.join_features(parts))

    def _compute_missing(self, model: Any, prepared: PreparedBatch) -> Sequence[tuple[Hashable, Tensor]]:
        if prepared.missing is None:
            return []
        keys = [key for key in dict.fromkeys(prepared.keys) if key not in prepared.cached]
        batch = model.transfer(prepared.missing)
        parts = model.split_features(batch, model.see(batch, unmarked))
        self.computed += len(parts)
        for key, part in zip(keys, parts, strict=True):
            self._add(key, part)
        return list(zip(keys, parts, strict=True))

    def _add(self, key: Hashable, part: Tensor) -> None:
        host_copy = part.to("cpu", non_blocking=True) if part.is_cuda else part.clone()
        with self._lock:
            self._bytes += host_copy.nbytes - (self._entries[key].nbytes if key in self._entries else 0)
            self._entries[key] = host_copy
            while self._bytes > self._max_bytes:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes


See = Callable[[Any, Mark], Any]
"""Batch on the device, mark -> its vision features: ``TokenMaker.see``, or an engine's."""


def compute_inputs(model: TokenMaker, prompts: Sequence[Prompt], mark: Mark, see: See | None = None) -> Inputs:
    """Encode and transfer the prompts and compute their features, without a cache: what a timed generation uses.

    Marks the stages up to the vision encoder; the work from there to the caller's next mark is the connector. ``see``
    computes the features; None: the model does.
    """
    batch = model.encode(prompts)
    mark("preprocess")
    device_batch = model.transfer(batch)
    mark("transfer")
    return Inputs(batch=batch, device_batch=device_batch, features=(see or model.see)(device_batch, mark))


def prepare_each_row(model: Any, prompts: Sequence[Prompt]) -> PreparedBatch:
    """A prepared batch in which every row counts as an image of its own, even if images are equal.

    It takes the most memory of all prepared batches of its size: no two rows share features.
    """
    encoded = model.encode([_with_own_picture(prompt) for prompt in prompts])
    if not isinstance(model, RowwiseVision):
        return PreparedBatch(batch=encoded, cached={})
    return PreparedBatch(batch=model.encode_text(prompts), keys=tuple(range(len(prompts))), cached={}, missing=encoded)


def _with_own_picture(prompt: Prompt) -> Prompt:
    """The prompt about a copy of its picture: a model may keep one that several prompts share only once."""
    picture = prompt.picture
    return replace(prompt, picture=replace(picture, load=lambda: picture.load().copy()))


def _key(model: RowwiseVision, prompt: Prompt) -> Hashable:
    return prompt.picture.key or _digest(prompt), model.feature_key(prompt)


def _digest(prompt: Prompt) -> str:
    image = prompt.picture.load()
    return hashlib.blake2b(image.tobytes(), digest_size=16, person=f"{image.size}".encode()[:16]).hexdigest()


def _default_max_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else ():
        if line.startswith("MemAvailable:"):
            return min(MAX_BYTES, int(MEMORY_SHARE * 1024 * int(line.split()[1])))
    return 2**30
