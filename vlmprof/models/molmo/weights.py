"""Maps the tensor names of the Hub files to native ones, and loads only checkpoints that match the model exactly.

The Hub files of Molmo use OLMo's names (``model.transformer.blocks.3.att_proj``, ``model.vision_backbone...``), fused
projections and one tensor per expert. transformers converts while it reads, by the rules below: first every renaming
that matches, in order, then at most one fusing or splitting. Files saved by vlmprof have native names, which match no
rule.
"""

from __future__ import annotations

import os
from typing import Any, cast

from safetensors import SafetensorError
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Split,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
)

from vlmprof.errors import ModelError
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

_LISTED_KEYS = 6


def whole_model_rules() -> list[WeightTransform]:
    """Rules that apply to every Molmo: the top-level modules, and the names inside the vision modules."""
    renames = {
        r"^model\.transformer\.ff_out\.": "lm_head.",  # dense models; MolmoE's file already uses lm_head
        r"^model\.transformer\.ln_f\.": "model.language_model.norm.",
        r"^model\.transformer\.blocks\.": "model.language_model.layers.",
        r"^model\.transformer\.wte\.": "model.language_model.wte.",
        r"^model\.vision_backbone\.image_vit\.transformer\.resblocks\.": "model.vision_tower.layers.",
        r"^model\.vision_backbone\.image_vit\.": "model.vision_tower.",
        r"^model\.vision_backbone\.": "model.multi_modal_projector.",
        r"\.attention\.wq\.": ".self_attn.q_proj.",
        r"\.attention\.wk\.": ".self_attn.k_proj.",
        r"\.attention\.wv\.": ".self_attn.v_proj.",
        r"\.attention\.wo\.": ".self_attn.out_proj.",
        r"\.feed_forward\.w1\.": ".mlp.fc1.",
        r"\.feed_forward\.w2\.": ".mlp.fc2.",
        r"\.attention_norm\.": ".layer_norm1.",
        r"\.ffn_norm\.": ".layer_norm2.",
        r"\.image_pooling_2d\.wq\.": ".image_pooling_2d.q_proj.",
        r"\.image_pooling_2d\.wk\.": ".image_pooling_2d.k_proj.",
        r"\.image_pooling_2d\.wv\.": ".image_pooling_2d.v_proj.",
        r"\.image_pooling_2d\.wo\.": ".image_pooling_2d.o_proj.",
        r"\.image_projector\.w1\.": ".image_projector.gate_proj.",
        r"\.image_projector\.w2\.": ".image_projector.down_proj.",
        r"\.image_projector\.w3\.": ".image_projector.up_proj.",
    }
    return _renamings(renames)


def text_model_rules(*, norm_after: bool) -> list[WeightTransform]:
    """Rules for one text model, registered under its class name.

    Args:
        norm_after: whether the two norms follow their sub-layers (7B-O). The Hub's tensor names do not differ.
    """
    attention_norm, mlp_norm = (
        ("post_attention_layernorm", "post_feedforward_layernorm")
        if norm_after
        else ("input_layernorm", "post_attention_layernorm")
    )
    renames = {
        # MolmoE has attn. and mlp. in the names of a block's tensors, the dense models do not.
        r"\.attn\.attn_norm\.": f".{attention_norm}.",
        r"\.mlp\.ff_norm\.": f".{mlp_norm}.",
        r"\.attn_norm\.": f".{attention_norm}.",
        r"\.ff_norm\.": f".{mlp_norm}.",
        r"\.attn\.": ".self_attn.",
        r"(?<!self_attn)\.att_proj\.": ".self_attn.att_proj.",
        r"(?<!self_attn)\.attn_out\.": ".self_attn.attn_out.",
        r"(?<!self_attn)\.q_norm\.": ".self_attn.q_norm.",
        r"(?<!self_attn)\.k_norm\.": ".self_attn.k_norm.",
        r"\.attn_out\.": ".o_proj.",
        r"\.ff_out\.": ".mlp.down_proj.",
        r"\.ff_proj\.": ".mlp.ff_proj.",
    }
    converters = [
        WeightConverter(
            "self_attn.att_proj",
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            operations=[Split(dim=0)],  # sizes of the targets: keys and values are narrower in grouped-query attention
        ),
        # Up before gate: the original dense models compute silu(second half) * first half.
        WeightConverter(
            "mlp.ff_proj.weight", ["mlp.up_proj.weight", "mlp.gate_proj.weight"], operations=[Chunk(dim=0)]
        ),
        WeightConverter(["wte.embedding", "wte.new_embedding"], "embed_tokens.weight", operations=[Concatenate(dim=0)]),
        WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", operations=[MergeModulelist(dim=0)]),
    ]
    return [*_renamings(renames), *converters]


def _renamings(renames: dict[str, str]) -> list[WeightTransform]:
    return [WeightRenaming(source_patterns=source, target_patterns=target) for source, target in renames.items()]


def register_weight_rules() -> None:
    """Register the rules with transformers, for the classes of this package. Calling it again changes nothing."""
    rules = {
        "MolmoForConditionalGeneration": whole_model_rules(),
        "MolmoOlmoeModel": text_model_rules(norm_after=False),
        "MolmoQwen2Model": text_model_rules(norm_after=False),
        "MolmoOlmo2Model": text_model_rules(norm_after=True),
    }
    for class_name, mapping in rules.items():
        register_checkpoint_conversion_mapping(class_name, mapping, overwrite=True)


def load_strict(path: str | os.PathLike[str], **kwargs: Any) -> MolmoForConditionalGeneration:
    """Load a checkpoint; refuse one whose tensors do not match the model's parameters exactly.

    Args:
        path: folder or Hub id, in the layout of the Hub files or the native one.
        kwargs: passed to ``from_pretrained``, such as ``dtype`` and ``device_map``.

    Raises:
        ModelError: names the tensors that are missing, unexpected or of another shape.
    """
    register_weight_rules()
    # Mismatched shapes are listed below; the error of transformers only refers to its log.
    options = {**kwargs, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        model, report = MolmoForConditionalGeneration.from_pretrained(path, **options)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{os.fspath(path)} cannot be read as a Molmo checkpoint: {error}") from error
    except RuntimeError as error:
        raise ModelError(
            f"{os.fspath(path)} cannot be converted: a group of tensors that are fused (a block's experts, or gate and "
            f"up) is incomplete or of unequal shapes. The log above names it. {error}"
        ) from error
    faults = {
        "missing": report["missing_keys"],
        "not expected": report["unexpected_keys"],
        "of another shape": [
            f"{key} ({list(shape)} instead of {list(expected)})" for key, shape, expected in report["mismatched_keys"]
        ],
    }
    lines = [f"  {len(keys)} {kind}: {_listed(sorted(keys))}" for kind, keys in faults.items() if keys]
    if lines:
        raise ModelError(
            f"{os.fspath(path)} does not hold exactly the tensors of this Molmo configuration:\n" + "\n".join(lines)
        )
    return cast(MolmoForConditionalGeneration, model)


def _listed(keys: list[str]) -> str:
    more = len(keys) - _LISTED_KEYS
    return ", ".join(keys[:_LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")
