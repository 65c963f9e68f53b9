"""Keys and values in memory that never moves, so that a recorded decode step finds them again.

The prompt is written straight into that memory, with the arithmetic of the library's growing cache; steps then go on
in it. The library's own static cache makes its write position anew and counts in every block; here all blocks share
one cursor, which the step advances once.
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
    """What memory a step needs."""

    batch: int
    length: int
    """Room for tokens in the cache, prompt included."""


@final
class CacheArena:
    """The memory of keys and values of one loaded model, shared by all its steps: only one of them runs at a time.

    One storage for the keys and one for the values of each block. A smaller batch of the same length lies over the
    first rows of a larger one.
    """

    def __init__(self) -> None:
        self._storages: dict[tuple[int, str], Tensor] = {}
        self.moves = 0
        """How often a storage was replaced by a larger one: what was recorded before then points nowhere."""

    def room(self, block: int, kind: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of a shape in the memory of a block's ``keys`` or ``values``, of the type of ``like``."""
        place, count = (block, kind), math.prod(shape)
        have = self._storages.pop(place, None)
        if have is None or have.numel() < count or have.dtype != like.dtype:
            self.moves += have is not None
            have = None  # freed before what replaces it is taken
            # Zeros, because what the mask hides is multiplied by zero, and must be a number for that.
            have = torch.zeros(count, dtype=like.dtype, device=like.device)
        self._storages[place] = have
        return have[:count].view(*shape)

    def clear(self) -> None:
        """Give the memory back."""
        self.moves += bool(self._storages)
        self._storages.clear()


@final
class PromptLayer(CacheLayerMixin):
    """One block's part of an arena while the prompt runs: keeps what it is given and hands it straight on."""

    is_compileable = False
    is_sliding = False

    def __init__(self, arena: CacheArena, block: int, shape: CacheShape) -> None:
        super().__init__()
        self._arena, self._block, self._shape, self._tokens = arena, block, shape, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Find this block's memory, for the whole batch and length."""
        rooms = []
        for kind, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, size = states.shape
            whole = (self._shape.batch, heads, self._shape.length, size)
            rooms.append(self._arena.room(self._block, kind, whole, states))
        self.keys, self.values = rooms
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take the whole prompt, once."""
        if self._tokens:
            raise RuntimeError("the prompt is in the cache already; steps go on in a fixed_cache over its memory")
        self.lazy_initialization(key_states, value_states)
        rows, _, self._tokens, _ = key_states.shape
        self.keys[:rows, :, : self._tokens].copy_(key_states)
        self.values[:rows, :, : self._tokens].copy_(value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask must cover: the prompt."""
        return self._tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens taken so far."""
        return self._tokens

    def get_max_length(self) -> int:
        """Tokens there is room for."""
        return self._shape.length

    def get_max_cache_shape(self) -> int:
        """The same under the library's former name."""
        return self._shape.length


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
        """Nothing to do: the memory was there first."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row at the cursor; returns the whole memory, which the mask cuts to size."""
        self.keys.index_copy_(2, self.cursor, key_states)
        self.values.index_copy_(2, self.cursor, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask must cover."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Any:
        """Tokens written so far, on the device: reading it as a number would wait for it."""
        return self.cursor

    def get_max_length(self) -> int:
        """Tokens there is room for."""
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """The same under the library's former name."""
        return self.keys.shape[2]


def prompt_cache(arena: CacheArena, blocks: int, shape: CacheShape) -> Cache:
    """An empty cache for one prompt, over an arena."""
    return Cache(layers=[PromptLayer(arena, block, shape) for block in range(blocks)])


def fixed_cache(filled: Cache, cursor: Tensor) -> Cache:
    """A cache of the same memory for the steps that follow; blocks that keep nothing have no layer in it."""
    pairs = [(layer.keys, layer.values) for layer in filled.layers if layer.is_initialized]
    return Cache(layers=[StaticLayer(keys, values, cursor) for keys, values in pairs])
