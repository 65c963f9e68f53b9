"""Where the vision encoder of a model ends and its connector begins, found by looking: never by the model's name.

The library has a module for the connector beside the vision tower, or, in the Qwen line, at the end of it. What runs
inside such a module is connector, all else of the vision side is encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from vlmprof.surfaces import Mark, unmarked

NAMES = ("multi_modal_projector", "connector", "embed_vision", "resampler_model", "vision_adapter", "aligner")
"""Of a child of the module that makes the features, or of its tower."""
INNER_NAMES = ("merger", "deepstack_merger_list")
"""Of a child of the tower."""


def find_connectors(owner: Any) -> tuple[Any, ...]:
    """The modules that turn the encoder's patches into what the language model reads; empty where none is known."""
    beside = [child for name, child in owner.named_children() if name in NAMES]
    towers = [child for name, child in owner.named_children() if child not in beside and name != "language_model"]
    inside = [child for tower in towers for name, child in tower.named_children() if name in (*NAMES, *INNER_NAMES)]
    return tuple(part for module in (*beside, *inside) for part in _callable(module))


def _callable(module: Any) -> Sequence[Any]:
    """A list of modules is never called itself, its members are."""
    return list(module) if type(module).__name__ == "ModuleList" else [module]


@contextmanager
def marking(connectors: Sequence[Any], mark: Mark) -> Iterator[None]:
    """While the block lasts, ``mark`` is told where encoder and connector take turns. Leaves no hook behind."""
    with ExitStack() as hooks:
        for module in connectors if mark is not unmarked else ():
            hooks.callback(module.register_forward_pre_hook(lambda *_: mark("vision")).remove)
            hooks.callback(module.register_forward_hook(lambda *_: mark("connector")).remove)
        yield
