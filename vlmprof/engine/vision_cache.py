"""``VisionFeatureCache``: vision features of images, kept for the next configuration that would compute the same.

Features depend on the image, on how it is cut, and on the weights of the vision side; not on experts, blocks or the
length of answers. So a sweep computes them once for each image and tiling, and the knobs of the language model share
them. Used in score passes only: a timed generation computes everything.

Entries are keyed by content (a hash of the pixels, the tiling) and belong to one loaded model, which settles weights
and precision. They lie in host memory, pinned where there is a GPU, up to a bound; the one unused longest goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor

from vlmprof.decoding import Batch, Mark, TokenMaker, unmarked
from vlmprof.errors import Mismatch
from vlmprof.records import Prompt

MOST_BYTES = 16 * 2**30
SHARE_OF_MEMORY = 1 / 8
"""Of what the host has free when a model is loaded: several trials may run on one host."""


@runtime_checkable
class RowwiseVision(Protocol):
    """A model whose features can be taken apart by prompt, and whose prompts can be encoded without pixels."""

    def feature_key(self, prompt: Prompt) -> Hashable:
        """All that decides a prompt's features besides pixels and weights: how the image is cut."""
        ...

    def encode_text(self, prompts: Sequence[Prompt]) -> Batch:
        """As ``encode``, pixels left out: no picture is opened."""
        ...

    def split_features(self, batch: Any, features: Any) -> Sequence[Tensor]:
        """The features of each prompt of a batch."""
        ...

    def join_features(self, parts: Sequence[Tensor]) -> Any:
        """The features of a batch from those of its prompts."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """A batch as far as the host can take it."""

    batch: Batch
    keys: tuple[Hashable, ...] = ()
    """Of each prompt's features; none where the model is asked anew."""
    known: Mapping[Hashable, Tensor]
    """On the host; held here, so that making room for others does not lose them."""
    missing: Batch | None = None
    """The prompts whose images have no features yet, one for each image and tiling."""

    def __len__(self) -> int:
        """Prompts."""
        return len(self.batch.encodings)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A batch with its vision features: what the language model's prompt is made of."""

    batch: Batch
    """On the host."""
    moved: Batch
    """The same on the model's device."""
    features: Any
    """One for each vision token, as the model's connector makes them."""


@final
class VisionFeatureCache:
    """The features of one loaded model."""

    def __init__(self, most_bytes: int | None = None) -> None:
        """Nothing is kept yet; 0 keeps nothing, None decides by the host's free memory."""
        self._most = _room() if most_bytes is None else most_bytes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0
        self.computed = 0
        """Images and tilings that went through the vision side."""

    def prepare(self, model: TokenMaker, prompts: Sequence[Prompt]) -> PreparedBatch:
        """Work for the host alone: may run in a thread beside the device's."""
        if not self._most or not isinstance(model, RowwiseVision):
            return PreparedBatch(batch=model.encode(prompts), known={})
        keys = tuple((_digest(prompt), model.feature_key(prompt)) for prompt in prompts)
        known: dict[Hashable, Tensor] = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        missing = model.encode(list(new.values())) if new else None
        return PreparedBatch(batch=model.encode_text(prompts), keys=keys, known=known, missing=missing)

    def complete(self, model: Any, prepared: PreparedBatch) -> Inputs:
        """A prepared batch with all its features: those that are missing are computed and kept.

        Raises:
            Mismatch: an image has another number of features than its prompt has places for.
        """
        moved = model.transfer(prepared.batch)
        if not prepared.keys:
            return Inputs(batch=prepared.batch, moved=moved, features=model.see(moved, unmarked))
        fresh = dict(self._seen(model, prepared))
        for key in prepared.known:
            if key in self._kept:
                self._kept.move_to_end(key)
        parts = [
            fresh[key] if key in fresh else prepared.known[key].to(model.device, non_blocking=True)
            for key in prepared.keys
        ]
        for encoding, part in zip(prepared.batch.encodings, parts, strict=True):
            if len(part) != encoding.vision_tokens:
                raise Mismatch(f"{len(part)} features for an image that was planned as {encoding.vision_tokens}")
        return Inputs(batch=prepared.batch, moved=moved, features=model.join_features(parts))

    def _seen(self, model: Any, prepared: PreparedBatch) -> Sequence[tuple[Hashable, Tensor]]:
        if prepared.missing is None:
            return []
        keys = [key for key in dict.fromkeys(prepared.keys) if key not in prepared.known]
        batch = model.transfer(prepared.missing)
        parts = model.split_features(batch, model.see(batch, unmarked))
        self.computed += len(parts)
        for key, part in zip(keys, parts, strict=True):
            self._keep(key, part)
        return list(zip(keys, parts, strict=True))

    def _keep(self, key: Hashable, part: Tensor) -> None:
        host = part.to("cpu", non_blocking=True) if part.is_cuda else part.clone()
        self._bytes += host.nbytes - (self._kept[key].nbytes if key in self._kept else 0)
        self._kept[key] = host
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def compute_inputs(model: TokenMaker, prompts: Sequence[Prompt], mark: Mark) -> Inputs:
    """Encode, transfer and look at everything, stage by stage and without a cache: what is timed.

    Marks the stages up to the vision encoder; what follows until the next mark is the connector.
    """
    batch = model.encode(prompts)
    mark("preprocess")
    moved = model.transfer(batch)
    mark("transfer")
    return Inputs(batch=batch, moved=moved, features=model.see(moved, mark))


def prepare_each_row(model: Any, prompts: Sequence[Prompt]) -> PreparedBatch:
    """A prepared batch in which every row counts as an image of its own, also where images are equal.

    That is the most memory that a prepared batch of this size can take: no two rows share features.
    """
    encoded = model.encode(prompts)
    if not isinstance(model, RowwiseVision):
        return PreparedBatch(batch=encoded, known={})
    return PreparedBatch(batch=model.encode_text(prompts), keys=tuple(range(len(prompts))), known={}, missing=encoded)


def _digest(prompt: Prompt) -> str:
    image = prompt.picture.load()
    return hashlib.blake2b(image.tobytes(), digest_size=16, person=f"{image.size}".encode()[:16]).hexdigest()


def _room() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else ():
        if line.startswith("MemAvailable:"):
            return min(MOST_BYTES, int(SHARE_OF_MEMORY * 1024 * int(line.split()[1])))
    return 2**30
