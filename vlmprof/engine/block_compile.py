"""Compiles per decoder block: one compiled graph serves all blocks, so a knob change costs seconds.

For the compiler, blocks differ only in their layer index and in the cache that they write to. Both are made the same
for all blocks while they are compiled and captured: every block has index 0 in a cache of its own. The number of
blocks that run then needs no compilation at all, and another top-k compiles one block again, not sixteen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, final

import torch
from transformers.cache_utils import Cache

MAX_GRAPHS = 512
"""Compiled graphs kept for one class of block: batch sizes x cache lengths x top-k. Above the compiler's own limit,
eight, it would silently fall back to uncompiled code."""


@final
class BlockCompiler:
    """Compiled forwards, one for each class of block, kept as long as the model."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor", *, dynamic: bool = False) -> None:
        """Nothing is compiled yet.

        Args:
            backend: Of ``torch.compile``.
            dynamic: Whether one compiled graph serves inputs of all sizes, as prompts need; else each size has its own.
        """
        self._backend, self._dynamic = backend, dynamic
        self._compiled: dict[type, Any] = {}

    @contextmanager
    def applied(self, decoder: Any, cache: Cache) -> Iterator[None]:
        """Replace the forwards of a decoder's blocks by compiled ones inside a ``with`` block.

        Each block writes to its layer of ``cache``. Blocks without attention (those that only pass their input on) have
        no layer there and are not changed.
        """
        with ExitStack() as undo:
            undo.enter_context(_many_graphs())
            for block in decoder.layers:
                index = _layer_index(block)
                if index is None:
                    continue
                _require_uncompiled(block)
                block_cache = Cache(layers=[cache.layers[index]])
                _set_layer_index(block, 0, undo)
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = partial(_call_with_cache, self._forward(type(block)), block, block_cache)
            yield

    @contextmanager
    def applied_to(self, blocks: Sequence[Any]) -> Iterator[None]:
        """Replace the forwards of blocks without a cache by compiled ones inside a ``with`` block."""
        with ExitStack() as undo:
            undo.enter_context(_many_graphs())
            for block in blocks:
                _require_uncompiled(block)
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = partial(self._forward(type(block)), block)
            yield

    def _forward(self, block_class: type) -> Any:
        if block_class not in self._compiled:
            self._compiled[block_class] = torch.compile(
                block_class.forward,  # type: ignore[attr-defined]  # every block has one
                backend=self._backend,
                dynamic=self._dynamic,
                fullgraph=True,
            )
        return self._compiled[block_class]


def _require_uncompiled(block: Any) -> None:
    """Inside of another ``with`` block all layer indices are 0, and every block would write to the first layer.

    Raises:
        RuntimeError: the block is compiled already.
    """
    if isinstance(block.__dict__.get("forward"), partial):
        raise RuntimeError(f"the forward of this {type(block).__name__} is a compiled one already")


def _many_graphs() -> Any:
    return torch._dynamo.config.patch({"recompile_limit": MAX_GRAPHS, "accumulated_recompile_limit": MAX_GRAPHS})


def _call_with_cache(forward: Any, block: Any, block_cache: Cache, *args: Any, **kwargs: Any) -> Any:
    kwargs = {name: block_cache if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return forward(block, *(block_cache if isinstance(value, Cache) else value for value in args), **kwargs)


def _layer_index(block: Any) -> int | None:
    indices = {module.__dict__["layer_idx"] for module in block.modules() if "layer_idx" in module.__dict__}
    return next((index for index in indices if isinstance(index, int)), None)


def _set_layer_index(block: Any, index: int, undo: ExitStack) -> None:
    for module in block.modules():
        if isinstance(module.__dict__.get("layer_idx"), int):
            undo.callback(module.__dict__.__setitem__, "layer_idx", module.__dict__["layer_idx"])
            module.__dict__["layer_idx"] = index
