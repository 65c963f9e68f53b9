"""Finds the parts of a vision-language model of transformers by inspecting its modules, never by the model's name.

It works on a model without weights (on the meta device) as well as on a loaded one. A mixture-of-experts block is one
that contains a module whose class name ends in ``Experts``; its routers are the modules inside the block with an
integer ``top_k``, or, where routers read it from their configuration, with ``config.top_k_experts``. In transformers
the connector is a module next to the vision tower or, in the Qwen models, at the end of it: time spent inside such a
module counts as connector, all other time of the vision side as encoder.
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
"""Attributes of a configuration that a router reads at every call."""


@final
class ConfigRouter:
    """A router that reads its top-k from its configuration. Changing ``top_k`` gives it a configuration of its own."""

    def __init__(self, module: Any, attribute: str) -> None:
        self._module, self._attribute, self._shared = module, attribute, module.config

    @property
    def top_k(self) -> int:
        """Experts computed for each token."""
        return int(getattr(self._module.config, self._attribute))

    @top_k.setter
    def top_k(self, value: int) -> None:
        # All blocks share the configuration: a router with another value gets a copy, at the shared value the original.
        if value == getattr(self._shared, self._attribute):
            self._module.config = self._shared
            return
        config = copy.copy(self._shared)
        config.__dict__[self._attribute] = value
        self._module.config = config

    def register_forward_hook(self, hook: Any) -> Any:
        """Register the hook on the module."""
        return self._module.register_forward_hook(hook)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelModules:
    """The modules of a model that knobs act on, and what their structure implies."""

    decoder: Any
    """The module that owns ``layers`` and the text ``config``."""
    feature_owner: Any
    """The module whose ``get_image_features`` turns pixels into vision features for the language model."""
    connectors: tuple[Any, ...]
    """The modules between vision encoder and language model; empty where none were found."""
    routers: tuple[Any, ...]
    router_blocks: tuple[int, ...]
    """The decoder block of each router."""
    experts: int | None
    dense_compute: bool
    """Every expert runs on every token and the router only weights the outputs: a smaller k saves nothing."""
    deepstack: bool
    """Vision features are added again after the first decoder blocks, by position."""
    shares_cache: bool
    """Blocks read the keys and values of other blocks, or inputs made for a block of their index."""


def find_modules(model: Any) -> ModelModules:
    """Find the modules of a model.

    Raises:
        ModelError: it is not a decoder-only model, or its parts cannot be found.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ModelError(f"{name} is an encoder-decoder model; vlmprof profiles decoder-only models")
    decoder = _decoder(model)
    owner = next((part for part in (model.base_model, model) if hasattr(part, "get_image_features")), None)
    if owner is None:
        raise ModelError(f"{name} has no get_image_features, so its vision side cannot be run and timed separately")
    routers = [(index, router) for index, block in enumerate(decoder.layers) for router in _routers(block)]
    text = decoder.config
    return ModelModules(
        decoder=decoder,
        feature_owner=owner,
        connectors=find_connectors(owner),
        routers=tuple(router for _, router in routers),
        router_blocks=tuple(index for index, _ in routers),
        experts=_expert_count(text) if routers else None,
        dense_compute=any(_runs_all_experts(block) for block in decoder.layers),
        deepstack="deepstack_visual_embeds" in inspect.signature(decoder.forward).parameters,
        shares_cache=any(getattr(text, name, 0) for name in ("num_kv_shared_layers", "hidden_size_per_layer_input")),
    )


def attention_blocks(text: Any, blocks: int) -> tuple[int, ...]:
    """The blocks with a KV cache: all except those of linear attention, convolution or recurrence."""
    kinds: Sequence[str] = getattr(text, "layer_types", None) or ["full_attention"] * blocks
    return tuple(i for i, kind in enumerate(kinds) if "attention" in kind and not kind.startswith("linear"))


def reachable_experts(text: Any, experts: int | None) -> int | None:
    """Number of experts in the groups that a token is routed to (GLM, DeepSeek); None where there are no groups.

    With a larger top-k, a router would also pick experts of the other groups, whose scores are masked.
    """
    groups, chosen = (getattr(text, name, None) or 1 for name in ("n_group", "topk_group"))
    return experts * chosen // groups if experts and groups > 1 else None


def always_normalised(routers: Sequence[Any]) -> bool:
    """Whether no router has a switch for renormalisation: its code then fixes what the chosen weights sum to."""
    return not any(hasattr(router, "norm_topk_prob") for router in routers)


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder()
    for _ in range(4):  # a causal LM wraps a text model that holds the blocks; no known model nests deeper than 4
        if isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            return decoder
        decoder = next((getattr(decoder, n) for n in ("model", "language_model") if hasattr(decoder, n)), decoder)
    raise ModelError(f"{type(model).__name__}: found no ModuleList 'layers' in its {type(decoder).__name__}")


def _experts_of(block: Any) -> Iterator[Any]:
    return (module for module in block.modules() if type(module).__name__.endswith("Experts"))


def _routers(block: Any) -> Iterator[Any]:
    if next(_experts_of(block), None) is None:
        return
    for module in block.modules():
        if _has_top_k(module):
            # In ERNIE the module around a router has a top_k too; the innermost module is the one that routes.
            if not any(_has_top_k(inner) for inner in module.modules() if inner is not module):
                yield module
            continue
        name = next((n for n in CONFIG_TOP_K_NAMES if _reads_top_k_from_config(module, n)), None)
        if name:
            yield ConfigRouter(module, name)


def _has_top_k(module: Any) -> bool:
    return _is_integer(module.__dict__.get("top_k")) and not type(module).__name__.endswith("Experts")


def _reads_top_k_from_config(module: Any, name: str) -> bool:
    return type(module).__name__.endswith("Router") and _is_integer(
        getattr(getattr(module, "config", None), name, None)
    )


def _runs_all_experts(block: Any) -> bool:
    """Whether the ``forward`` of the experts takes no indices of the chosen ones."""
    for experts in _experts_of(block):
        if not any("index" in name or "indices" in name for name in inspect.signature(experts.forward).parameters):
            return True
    return False


def _expert_count(text: Any) -> int:
    for name in COUNT_NAMES:
        if _is_integer(count := getattr(text, name, None)):
            return int(count)  # type: ignore[arg-type]  # narrowed by _is_integer
    raise ModelError(f"{type(text).__name__} has routers but none of {', '.join(COUNT_NAMES)}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


CONNECTOR_NAMES = ("multi_modal_projector", "connector", "embed_vision", "resampler_model", "vision_adapter", "aligner")
"""Names of a connector as a child of the module that owns ``get_image_features``, or of its vision tower."""
TOWER_CONNECTOR_NAMES = ("merger", "deepstack_merger_list")
"""More names of a connector as a child of the vision tower."""


def find_connectors(owner: Any) -> tuple[Any, ...]:
    """The modules that map encoder patches to inputs of the language model; empty where none are found by name."""
    names = (*CONNECTOR_NAMES, *TOWER_CONNECTOR_NAMES)
    siblings = [child for name, child in owner.named_children() if name in CONNECTOR_NAMES]
    towers = [child for name, child in owner.named_children() if child not in siblings and name != "language_model"]
    in_towers = [child for tower in towers for name, child in tower.named_children() if name in names]
    return tuple(part for module in (*siblings, *in_towers) for part in _called_modules(module))


def _called_modules(module: Any) -> Sequence[Any]:
    """The members of a ``ModuleList``, which is never called itself; otherwise the module."""
    return list(module) if type(module).__name__ == "ModuleList" else [module]


@contextmanager
def marking_connectors(connectors: Sequence[Any], mark: Mark) -> Iterator[None]:
    """Call ``mark`` wherever a connector starts or ends, for the length of the block. Hooks are removed afterwards."""
    with ExitStack() as hooks:
        for module in connectors if mark is not unmarked else ():
            hooks.callback(module.register_forward_pre_hook(lambda *_: mark("vision")).remove)
            hooks.callback(module.register_forward_hook(lambda *_: mark("connector")).remove)
        yield
