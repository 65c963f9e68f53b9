"""Compiling at the granularity of a block: one compiled graph serves all of them, so a knob change costs seconds.

Blocks differ for the compiler in two ways only: the number they carry, and the cache they write to. Here both are made
the same for all of them while they are compiled and captured: every block is number 0 of a cache of its own. How many
blocks run then does not matter at all, and another top-k compiles one block anew, not sixteen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, final

import torch
from transformers.cache_utils import Cache

VARIANTS = 512
"""Compiled graphs of one kind of block that are kept: batch sizes x cache lengths x top-k. The compiler's own limit,
eight, would silently go back to uncompiled code."""


@final
class BlockCompiler:
    """Compiled forwards, one a class of block, kept as long as the model."""

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._compiled: dict[type, Any] = {}

    @contextmanager
    def applied(self, decoder: Any, cache: Cache) -> Iterator[None]:
        """The blocks of a decoder compiled, for the length of a ``with`` block; each writes to its layer of ``cache``.

        Blocks without attention of their own (those that pass their input on) have no layer there and are left alone.
        """
        with ExitStack() as undo:
            limits = {"recompile_limit": VARIANTS, "accumulated_recompile_limit": VARIANTS}
            undo.enter_context(torch._dynamo.config.patch(limits))
            for block in decoder.layers:
                index = _index(block)
                if index is None:
                    continue
                own = Cache(layers=[cache.layers[index]])
                _number(block, 0, undo)
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = partial(_call, self._forward(type(block)), block, own)
            yield

    def _forward(self, kind: type) -> Any:
        if kind not in self._compiled:
            self._compiled[kind] = torch.compile(
                kind.forward,  # type: ignore[attr-defined]  # every block has one
                backend=self._backend,
                dynamic=False,
                fullgraph=True,
            )
        return self._compiled[kind]


def _call(forward: Any, block: Any, own: Cache, *args: Any, **kwargs: Any) -> Any:
    kwargs = {name: own if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return forward(block, *(own if isinstance(value, Cache) else value for value in args), **kwargs)


def _index(block: Any) -> int | None:
    numbers = {module.__dict__["layer_idx"] for module in block.modules() if "layer_idx" in module.__dict__}
    return next((number for number in numbers if isinstance(number, int)), None)


def _number(block: Any, index: int, undo: ExitStack) -> None:
    for module in block.modules():
        if isinstance(module.__dict__.get("layer_idx"), int):
            undo.callback(module.__dict__.__setitem__, "layer_idx", module.__dict__["layer_idx"])
            module.__dict__["layer_idx"] = index
