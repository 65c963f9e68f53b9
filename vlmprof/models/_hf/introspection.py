"""What a vision-language model of transformers is made of, found by looking at its modules, never by its name.

All of it works on a model without weights (on the meta device) as well as on a loaded one. A mixture-of-experts block
is one that holds a module whose class name ends in ``Experts``; its routers are the modules inside the block with a
whole number ``top_k``, or, where routers read it from their configuration, with ``config.top_k_experts``. The library
has a module for the connector beside the vision tower or, in the Qwen line, at the end of it: what runs inside such a
module is connector, everything else on the vision side is encoder.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from vlmprof.decoding import Mark, unmarked
from vlmprof.errors import ModelError

COUNT_NAMES = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
CONFIG_TOP_K_NAMES = ("top_k_experts",)
"""Attributes of a configuration that a router reads anew at every call."""


@final
class ConfigRouter:
    """A router that reads its top-k from its configuration: given a configuration of its own when it is changed."""

    def __init__(self, module: Any, attribute: str) -> None:
        self._module, self._attribute, self._shared = module, attribute, module.config

    @property
    def top_k(self) -> int:
        """Experts computed for each token."""
        return int(getattr(self._module.config, self._attribute))

    @top_k.setter
    def top_k(self, value: int) -> None:
        # The configuration is shared by all blocks: a router that differs gets a copy, one that does not gets it back.
        if value == getattr(self._shared, self._attribute):
            self._module.config = self._shared
            return
        own = copy.copy(self._shared)
        own.__dict__[self._attribute] = value
        self._module.config = own

    def register_forward_hook(self, hook: Any) -> Any:
        """Hook the module itself."""
        return self._module.register_forward_hook(hook)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelModules:
    """Where everything is that a knob touches."""

    decoder: Any
    """The module that owns ``layers`` and the text ``config``."""
    feature_owner: Any
    """The module whose ``get_image_features`` turns pixels into what the language model reads."""
    connectors: tuple[Any, ...]
    """The modules between vision encoder and language model; empty where none was found."""
    routers: tuple[Any, ...]
    router_blocks: tuple[int, ...]
    """The decoder block of each router."""
    experts: int | None
    dense_compute: bool
    """Every expert runs on every token and the router only weighs them: a smaller k saves nothing."""
    deepstack: bool
    """Vision features are added again after the first decoder blocks, by position."""
    shares_cache: bool
    """Blocks read the keys and values of other blocks, or inputs made for a block of their index."""


def find_modules(model: Any) -> ModelModules:
    """Take a model apart.

    Raises:
        ModelError: it is not a decoder-only vision-language model that gives its image features by itself.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder model; vlmprof profiles decoder-only models")
    decoder = _decoder(model)
    owner = next((part for part in (model.base_model, model) if hasattr(part, "get_image_features")), None)
    if owner is None:
        raise ModelError(f"{name} has no get_image_features: its vision side cannot be run and timed by itself")
    found = [(index, router) for index, block in enumerate(decoder.layers) for router in _routers(block)]
    text = decoder.config
    return ModelModules(
        decoder=decoder,
        feature_owner=owner,
        connectors=find_connectors(owner),
        routers=tuple(router for _, router in found),
        router_blocks=tuple(index for index, _ in found),
        experts=_experts(text) if found else None,
        dense_compute=any(_computes_all(block) for block in decoder.layers),
        deepstack="deepstack_visual_embeds" in inspect.signature(decoder.forward).parameters,
        shares_cache=any(getattr(text, name, 0) for name in ("num_kv_shared_layers", "hidden_size_per_layer_input")),
    )


def attention_blocks(text: Any, blocks: int) -> tuple[int, ...]:
    """The blocks that keep keys and values: all but those of linear attention, convolution or recurrence."""
    kinds: Sequence[str] = getattr(text, "layer_types", None) or ["full_attention"] * blocks
    return tuple(i for i, kind in enumerate(kinds) if "attention" in kind and not kind.startswith("linear"))


def reachable_experts(text: Any, experts: int | None) -> int | None:
    """Experts of the groups that a token is sent to first (GLM, DeepSeek); None where there are no groups.

    Beyond that many, routers would fill up with experts of other groups, whose scores were struck out.
    """
    groups, chosen = (getattr(text, name, None) or 1 for name in ("n_group", "topk_group"))
    return experts * chosen // groups if experts and groups > 1 else None


def always_normalised(routers: Sequence[Any]) -> bool:
    """Whether no router has a switch for it: the weights of the chosen experts then sum to what its code says."""
    return not any(hasattr(router, "norm_topk_prob") for router in routers)


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder()
    for _ in range(4):  # a causal model around a text model around the blocks: deeper than any that is known
        if isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            return decoder
        decoder = next((getattr(decoder, n) for n in ("model", "language_model") if hasattr(decoder, n)), decoder)
    raise ModelError(f"{type(model).__name__}: no list of decoder blocks was found in its {type(decoder).__name__}")


def _experts_of(block: Any) -> Iterator[Any]:
    return (module for module in block.modules() if type(module).__name__.endswith("Experts"))


def _routers(block: Any) -> Iterator[Any]:
    if next(_experts_of(block), None) is None:
        return
    for module in block.modules():
        if _has_top_k(module):
            # A block around a router (ERNIE) repeats its number; the innermost one is what chooses.
            if not any(_has_top_k(inner) for inner in module.modules() if inner is not module):
                yield module
            continue
        name = next((n for n in CONFIG_TOP_K_NAMES if _is_router_by_config(module, n)), None)
        if name:
            yield ConfigRouter(module, name)


def _has_top_k(module: Any) -> bool:
    return _whole(module.__dict__.get("top_k")) and not type(module).__name__.endswith("Experts")


def _is_router_by_config(module: Any, name: str) -> bool:
    return type(module).__name__.endswith("Router") and _whole(getattr(getattr(module, "config", None), name, None))


def _computes_all(block: Any) -> bool:
    """Whether the experts are not told which of them were chosen."""
    for experts in _experts_of(block):
        if not any("index" in name or "indices" in name for name in inspect.signature(experts.forward).parameters):
            return True
    return False


def _experts(text: Any) -> int:
    for name in COUNT_NAMES:
        if _whole(count := getattr(text, name, None)):
            return int(count)  # type: ignore[arg-type]  # narrowed by _whole
    raise ModelError(f"{type(text).__name__} has routers but none of {', '.join(COUNT_NAMES)}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
def marking_connectors(connectors: Sequence[Any], mark: Mark) -> Iterator[None]:
    """While the block lasts, ``mark`` is told where encoder and connector take turns. Leaves no hook behind."""
    with ExitStack() as hooks:
        for module in connectors if mark is not unmarked else ():
            hooks.callback(module.register_forward_pre_hook(lambda *_: mark("vision")).remove)
            hooks.callback(module.register_forward_hook(lambda *_: mark("connector")).remove)
        yield
