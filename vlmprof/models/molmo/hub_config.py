"""Translates the flat ``config.json`` of the Hub checkpoints into the nested form that ``MolmoConfig`` takes.

The Hub checkpoints were written for remote code, with every setting in one flat object, under one of two sets of names:
OLMo's (``d_model``, ``n_layers``, ...; MolmoE) and Hugging Face's (``hidden_size``, ...; the 7B and 72B models).
Settings that the native model does not implement are refused, all of them in one error. Source of the keys:
allenai/molmo ``olmo/config.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmprof.errors import ModelError, as_written

_SPECIAL_IDS: dict[tuple[str, int], int] = {
    ("olmoe", 50304): 50280,
    ("olmo2", 100352): 100278,
    ("qwen2", 152064): 152064,
}
"""(text model, base rows of the embedding) -> id of <im_start>; the ids of <im_end>, <im_patch> and <im_col> follow it.

Released models only, and only until a processor is at hand: ``load_molmo`` takes the ids of its tokenizer."""

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    # key of the flat config: the values that the native model implements. An absent key means the first of them.
    "activation_type": ("swiglu",),
    "alibi": (False,),
    "attn_logit_softcapping": (None, 0.0),
    "clip_qkv": (None,),  # the original clips before q/k norm, OlmoeAttention after: not the same function
    "final_logit_softcapping": (None, 0.0),
    "image_padding_embed": ("pad_and_partial_pad",),
    "image_pooling_2d": ("attention-meanq", "attention_meanq"),
    "image_projector": ("mlp",),
    "include_bias": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "moe_interleave": (False, None),
    "moe_shared_expert": (False, None),
    "multi_query_attention": (None, False),
    "normalize_input_embeds": (False,),
    "rope": (True,),
    "scale_logits": (False,),
    "tie_word_embeddings": (False,),
    "use_cls_feature": (False,),
    "use_col_tokens": (True,),
    "weight_tying": (False,),
}
_SUPPORTED_VISION: dict[str, tuple[Any, ...]] = {
    "image_model_type": ("openai",),
    "image_mlp_activations": ("quick_gelu",),
    "resize_mode": ("default",),
}


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether this is the flat form of the Hub checkpoints."""
    return "text_config" not in values and ("d_model" in values or "hidden_size" in values)


def read_flat(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a flat ``config.json`` into the nested form.

    Raises:
        ModelError: listing every unsupported setting with its value and what is supported.
    """
    tower = flat.get("vision_backbone") or {}
    faults = [*_unsupported(flat, _SUPPORTED), *_unsupported(tower, _SUPPORTED_VISION)]
    is_moe = flat.get("block_type") == "moe"
    # The original MoE code defaults to interleaved rotary embeddings; the native model implements only 'llama'.
    rotary = flat.get("rope_impl", "cockatoo" if is_moe else "llama")
    if rotary != "llama":
        faults.append(f"rope_impl is {as_written(rotary)}; supported: 'llama' (half-rotation)")
    pools = [flat.get("image_pooling_h", 2), flat.get("image_pooling_w", 2)]
    if pools[0] != pools[1]:
        faults.append(f"image_pooling_h, image_pooling_w are {pools}; supported: equal")
    kind = _text_model_type(flat, is_moe, faults)
    if faults:
        raise ModelError("this Molmo configuration is not supported:\n" + "\n".join(f"  {f}" for f in faults))
    left, right = flat.get("overlap_margins", (4, 4))
    base_rows = _first_present(flat, "embedding_size", "vocab_size")
    first_id = _SPECIAL_IDS.get((kind, base_rows))
    names = ("image_start_id", "image_end_id", "image_patch_id", "image_col_id")
    return {
        "text_config": _flat_text(flat, kind),
        "vision_config": _flat_vision(flat, tower),
        "adapter_intermediate_size": _inner_width(flat),
        "additional_vocab_size": _first_present(flat, "additional_vocab_size", default=128),
        "margin_left": left,
        "margin_right": right,
        "pool_size": pools[0],
        **{name: None if first_id is None else first_id + n for n, name in enumerate(names)},
        **{key: flat[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "dtype") if key in flat},
        "architectures": ["MolmoForConditionalGeneration"],
    }


def _unsupported(values: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> list[str]:
    return [
        f"{key} is {as_written(values[key])}; supported: {' or '.join(map(as_written, choices))}"
        for key, choices in allowed.items()
        if key in values and values[key] not in choices
    ]


def _text_model_type(flat: Mapping[str, Any], is_moe: bool, faults: list[str]) -> str:
    norms = bool(flat.get("attention_layer_norm")), bool(flat.get("qkv_bias")), bool(flat.get("norm_after"))
    if is_moe and norms == (True, False, False):
        return "olmoe"
    if not is_moe and norms == (True, False, True):
        return "olmo2"
    if not is_moe and norms == (False, True, False):
        return "qwen2"
    faults.append(
        f"block_type {as_written(flat.get('block_type'))} with (attention_layer_norm, qkv_bias, norm_after) = {norms}; "
        "supported: 'moe' with (True, False, False), any other with (True, False, True) or (False, True, False)"
    )
    return ""


def _first_present(flat: Mapping[str, Any], *keys: str, default: Any = None) -> Any:
    for key in keys:
        if flat.get(key) is not None:
            return flat[key]
    if default is None:
        raise ModelError(f"this Molmo configuration names none of {', '.join(keys)}")
    return default


def _inner_width(flat: Mapping[str, Any]) -> int:
    """Inner width of the gated MLP: half of the flat setting, which counts gate and up projections together."""
    width = _first_present(flat, "d_model", "hidden_size") * flat.get("mlp_ratio", 4)
    return int(_first_present(flat, "mlp_hidden_size", "intermediate_size", default=width)) // 2


def _flat_text(flat: Mapping[str, Any], kind: str) -> dict[str, Any]:
    heads = _first_present(flat, "n_heads", "num_attention_heads")
    text: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": _first_present(flat, "embedding_size", "vocab_size")
        + _first_present(flat, "additional_vocab_size", default=128),
        "hidden_size": _first_present(flat, "d_model", "hidden_size"),
        "intermediate_size": _inner_width(flat),
        "num_hidden_layers": _first_present(flat, "n_layers", "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _first_present(flat, "n_kv_heads", "num_key_value_heads", default=heads),
        "rms_norm_eps": flat.get("layer_norm_eps", 1e-5),
        "max_position_embeddings": _first_present(flat, "max_sequence_length", "max_position_embeddings", default=4096),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(flat.get("rope_theta", 10000.0))},
        # Set on the full model only: a padding row would be excluded from training, and its id may exceed the table.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
    if kind == "olmoe":
        text |= {
            "num_experts": _first_present(flat, "moe_num_experts"),
            "num_experts_per_tok": _first_present(flat, "moe_top_k"),
            "norm_topk_prob": False,  # softmax over all experts, then top-k, never renormalised
        }
    return text


def _flat_vision(flat: Mapping[str, Any], tower: Mapping[str, Any]) -> dict[str, Any]:
    size: Sequence[int] = tower.get("image_default_input_size", (336, 336))
    if size[0] != size[1]:
        raise ModelError(f"vision_backbone.image_default_input_size is {list(size)}; supported: a square")
    return {
        "hidden_size": tower.get("image_emb_dim", 1024),
        "intermediate_size": tower.get("image_mlp_dim", 4096),
        "num_hidden_layers": tower.get("image_num_layers", 23),
        "num_attention_heads": tower.get("image_num_heads", 16),
        "layer_norm_eps": tower.get("image_norm_eps", 1e-5),
        "image_size": size[0],
        "patch_size": tower.get("image_patch_size", 14),
        "vision_feature_layers": list(flat.get("vit_layers", (-2, -9))),
    }
