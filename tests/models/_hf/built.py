"""Models that were really built as a knob pretends: fewer blocks, another top-k, blocks that write nothing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from vlmprof.models._hf.runtime import LoadedVlm


def with_only(model: LoadedVlm, kept: tuple[int, ...]) -> LoadedVlm:
    """Constructed from a configuration of that many blocks, given those blocks' weights."""
    whole = model._model
    config = copy.deepcopy(whole.config)
    text = config.get_text_config(decoder=True)
    blocks = text.num_hidden_layers
    for name, entry in list(text.__dict__.items()):
        if isinstance(entry, list) and len(entry) == blocks:
            text.__dict__[name] = [entry[i] for i in kept]
    text.__dict__["num_hidden_layers"] = len(kept)
    if hasattr(text, "rope_scaling_layers"):
        text.__dict__["rope_scaling_layers"] = [kept.index(one) for one in text.rope_scaling_layers if one in kept]
    if hasattr(text, "first_k_dense_replace"):
        text.__dict__["first_k_dense_replace"] = sum(block < text.first_k_dense_replace for block in kept)
    prefix = _name_of(whole, model.decoder) + ".layers."
    renamed = {}
    for name, tensor in whole.state_dict().items():
        index, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            renamed[name] = tensor
        elif int(index) in kept:
            renamed[f"{prefix}{kept.index(int(index))}.{rest}"] = tensor
    return _loaded(model, config, renamed)


def with_top_k(model: LoadedVlm, k: int, renormalise: bool = False) -> LoadedVlm:
    """Constructed from a configuration with that many experts a token."""
    config = copy.deepcopy(model._model.config)
    text = config.get_text_config(decoder=True)
    name = next(name for name in ("moe_topk", "moe_k", "num_experts_per_tok") if hasattr(text, name))
    setattr(text, name, k)
    if renormalise:
        text.norm_topk_prob = True
    return _loaded(model, config, model._model.state_dict())


def with_silent(model: LoadedVlm, kept: tuple[int, ...]) -> LoadedVlm:
    """The whole model, but the other blocks' last projections are zero: they add nothing to what passes through."""
    silent = _loaded(model, copy.deepcopy(model._model.config), model._model.state_dict())
    with torch.no_grad():
        for index, block in enumerate(silent.decoder.layers):
            for name, weight in block.named_parameters():
                if index not in kept and ("o_proj" in name or "down_proj" in name):
                    weight.zero_()
    return silent


def _loaded(model: LoadedVlm, config: Any, weights: Any) -> LoadedVlm:
    built = AutoModelForImageTextToText.from_config(config).eval()
    built.load_state_dict(weights, strict=True)
    loaded = LoadedVlm(built, model._processor, "cpu")
    if loaded.routers:
        loaded.decoder.set_experts_implementation("grouped_mm")
    return loaded


def _name_of(model: Any, wanted: Any) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
