"""A key-value cache at fixed addresses, as a recorded decode step needs.

The prefill writes its keys and values straight into that memory, with the arithmetic of transformers' dynamic cache;
decode steps then append to it. transformers' own static cache recomputes its write position in every block; here all
blocks share one cursor, which the step advances once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Size of the cache that a decode step needs."""

    batch: int
    length: int
    """Tokens that the cache can hold for each row, prompt included."""


@final
class CacheArena:
    """The memory of keys and values of one loaded model, shared by all its steps, of which only one runs at a time.

    One storage for the keys and one for the values of each block. A smaller batch of the same length uses the first
    rows of a larger one.
    """

    def __init__(self) -> None:
        self._storages: dict[tuple[int, str], Tensor] = {}
        self.reallocations = 0
        """How often a storage was replaced or freed: steps recorded before hold addresses that are no longer valid."""

    def tensor(self, block: int, kind: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of this shape in the storage of a block's ``keys`` or ``values``, with dtype and device of ``like``.

        The storage is allocated, or replaced by a larger one, where it is needed.
        """
        name, count = (block, kind), math.prod(shape)
        storage = self._storages.pop(name, None)
        if storage is None or storage.numel() < count or storage.dtype != like.dtype:
            self.reallocations += storage is not None
            storage = None  # free the old one before the new one is allocated
            # Zeros, because masked values are multiplied by zero: NaN in uninitialised memory would stay NaN.
            storage = torch.zeros(count, dtype=like.dtype, device=like.device)
        self._storages[name] = storage
        return storage[:count].view(*shape)

    def clear(self) -> None:
        """Free the memory."""
        self.reallocations += bool(self._storages)
        self._storages.clear()


@final
class PromptLayer(CacheLayerMixin):
    """The cache layer of one block during the prefill: stores keys and values in the arena and returns them."""

    is_compileable = False
    is_sliding = False

    def __init__(self, arena: CacheArena, block: int, shape: CacheShape) -> None:
        super().__init__()
        self._arena, self._block, self._shape, self._tokens = arena, block, shape, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Get this block's tensors from the arena, for the full batch and length."""
        tensors = []
        for kind, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, size = states.shape
            full_shape = (self._shape.batch, heads, self._shape.length, size)
            tensors.append(self._arena.tensor(self._block, kind, full_shape, states))
        self.keys, self.values = tensors
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the whole prompt; allowed once.

        Raises:
            RuntimeError: a prompt has been stored already.
        """
        if self._tokens:
            raise RuntimeError(
                "this cache holds a prompt already and takes only one; decode steps use a static_cache over its memory"
            )
        self.lazy_initialization(key_states, value_states)
        rows, _, self._tokens, _ = key_states.shape
        self.keys[:rows, :, : self._tokens].copy_(key_states)
        self.values[:rows, :, : self._tokens].copy_(value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset that a mask must cover: those of the prompt."""
        return self._tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens stored so far."""
        return self._tokens

    def get_max_length(self) -> int:
        """Tokens that the layer can hold."""
        return self._shape.length

    def get_max_cache_shape(self) -> int:
        """``get_max_length`` under its former name in transformers."""
        return self._shape.length


@final
class PromptSlot(CacheLayerMixin):
    """The cache layer of one block during recorded prefills: like ``PromptLayer``, over memory that it already has.

    It has no state besides these tensors, so that a compiled block needs no guard for it, and it can take prompt after
    prompt.
    """

    is_compileable = True
    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory is allocated already."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the whole prompt over the one before."""
        rows, _, tokens, _ = key_states.shape
        self.keys[:rows, :, :tokens].copy_(key_states)
        self.values[:rows, :, :tokens].copy_(value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset that a mask must cover: those of the prompt."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: nothing precedes a prompt."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that the layer can hold."""
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """``get_max_length`` under its former name in transformers."""
        return self.keys.shape[2]


@final
class StaticLayer(CacheLayerMixin):
    """The cache of one block: (batch, heads, length, head size), written in place at a cursor."""

    is_compileable = True
    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, cursor: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.cursor = keys, values, cursor
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory is allocated already."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row at the cursor; returns the full tensors, whose unused positions the mask hides."""
        self.keys.index_copy_(2, self.cursor, key_states)
        self.values.index_copy_(2, self.cursor, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset that a mask must cover."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Any:
        """Tokens written so far, as a tensor on the device: the host would have to wait to read it as a number."""
        return self.cursor

    def get_max_length(self) -> int:
        """Tokens that the layer can hold."""
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """``get_max_length`` under its former name in transformers."""
        return self.keys.shape[2]


def prompt_cache(arena: CacheArena, blocks: int, shape: CacheShape) -> Cache:
    """An empty cache for one prefill, in the memory of an arena."""
    return Cache(layers=[PromptLayer(arena, block, shape) for block in range(blocks)])


def prompt_slots(filled: Cache) -> Cache:
    """A cache over the same memory for recorded prefills; blocks without keys and values keep their empty layer."""
    layers = [PromptSlot(layer.keys, layer.values) if layer.is_initialized else layer for layer in filled.layers]
    return Cache(layers=layers)


def static_cache(filled: Cache, cursor: Tensor) -> Cache:
    """A cache over the same memory for the decode steps; blocks without keys and values have no layer in it."""
    pairs = [(layer.keys, layer.values) for layer in filled.layers if layer.is_initialized]
    return Cache(layers=[StaticLayer(keys, values, cursor) for keys, values in pairs])
