"""The rules cover every tensor of the released layouts: all blocks and experts, small widths."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from safetensors.torch import save_file

from vlmprof.models.molmo.weights import load_strict

TOWER = {"image_emb_dim": 8, "image_mlp_dim": 8, "image_num_heads": 2, "image_num_layers": 23}
TOWER |= {"image_default_input_size": [32, 32], "image_patch_size": 4}
BASE = {"model_type": "molmo", "d_model": 8, "n_heads": 2, "mlp_hidden_size": 8, "embedding_size": 20}
BASE |= {"additional_vocab_size": 4, "vision_backbone": TOWER, "overlap_margins": [2, 2], "max_sequence_length": 64}
MOE = {"block_type": "moe", "n_layers": 16, "moe_num_experts": 64, "moe_top_k": 8, "attention_layer_norm": True}
MOE |= {"rope_impl": "llama", "qkv_bias": False, "norm_after": False}
PRE_NORM = {"n_layers": 3, "n_kv_heads": 1, "attention_layer_norm": False, "qkv_bias": True, "norm_after": False}
POST_NORM = {"n_layers": 3, "attention_layer_norm": True, "qkv_bias": False, "norm_after": True}


def tower_shapes():
    vit = {"class_embedding": (8,), "positional_embedding": (65, 8), "patch_embedding.weight": (8, 48)}
    vit |= {"pre_ln.weight": (8,), "pre_ln.bias": (8,)}
    for block, part in product(range(23), ("weight", "bias")):
        head = f"transformer.resblocks.{block}."
        size = (8, 8) if part == "weight" else (8,)
        vit |= {f"{head}attention.w{letter}.{part}": size for letter in "qkvo"}
        vit |= {f"{head}feed_forward.w{number}.{part}": size for number in "12"}
        vit |= {f"{head}{norm}.{part}": (8,) for norm in ("attention_norm", "ffn_norm")}
    shapes = {f"image_vit.{name}": shape for name, shape in vit.items()}
    shapes |= {f"image_pooling_2d.w{letter}.weight": (8, 16) for letter in "qkv"}
    shapes |= {"image_pooling_2d.wo.weight": (8, 8), "pad_embed": (2, 16)}
    shapes |= {f"image_pooling_2d.w{letter}.bias": (8,) for letter in "qkvo"}
    shapes |= {"image_projector.w1.weight": (4, 8), "image_projector.w3.weight": (4, 8)}
    shapes |= {"image_projector.w2.weight": (8, 4)}
    return {f"model.vision_backbone.{name}": shape for name, shape in shapes.items()}


def moe_shapes():
    shapes = {"wte.embedding": (20, 8), "wte.new_embedding": (4, 8), "ln_f.weight": (8,)}
    for block in range(16):
        attention, mlp = f"blocks.{block}.attn.", f"blocks.{block}.mlp."
        shapes |= {f"{attention}att_proj.weight": (24, 8), f"{attention}attn_out.weight": (8, 8)}
        shapes |= {f"{attention}{norm}.weight": (8,) for norm in ("attn_norm", "q_norm", "k_norm")}
        shapes |= {f"{mlp}ff_norm.weight": (8,), f"{mlp}gate.weight": (64, 8)}
        for expert in range(64):
            shapes |= {f"{mlp}experts.{expert}.{way}_proj.weight": (4, 8) for way in ("gate", "up")}
            shapes |= {f"{mlp}experts.{expert}.down_proj.weight": (8, 4)}
    named = {f"model.transformer.{name}": shape for name, shape in shapes.items()}
    return named | {"lm_head.weight": (20, 8)} | tower_shapes()


def dense_shapes(*, grouped):
    shapes = {"wte.embedding": (20, 8), "wte.new_embedding": (4, 8), "ln_f.weight": (8,), "ff_out.weight": (20, 8)}
    for block in range(3):
        head = f"blocks.{block}."
        shapes |= {f"{head}att_proj.weight": (16 if grouped else 24, 8), f"{head}attn_out.weight": (8, 8)}
        shapes |= {f"{head}attn_norm.weight": (8,), f"{head}ff_norm.weight": (8,)}
        shapes |= {f"{head}ff_proj.weight": (8, 8), f"{head}ff_out.weight": (8, 4)}
        shapes |= {f"{head}att_proj.bias": (16,)} if grouped else {f"{head}{n}_norm.weight": (8,) for n in "qk"}
    return {f"model.transformer.{name}": shape for name, shape in shapes.items()} | tower_shapes()


def load(folder, flat, shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    (folder / "config.json").write_text(json.dumps(flat))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return load_strict(folder, dtype=torch.float32), tensors


def test_all_3573_tensors_of_molmoe_become_564(tmp_path):
    shapes = moe_shapes()
    assert len(shapes) == 3573
    model, hub = load(tmp_path, BASE | MOE, shapes)
    ours = model.state_dict()
    assert len(ours) == 564
    block = "model.transformer.blocks.11."
    layer = model.decoder_layers[11]
    q, k, v = hub[block + "attn.att_proj.weight"].chunk(3)
    assert torch.equal(layer.self_attn.q_proj.weight, q) and torch.equal(layer.self_attn.v_proj.weight, v)
    assert torch.equal(layer.self_attn.k_proj.weight, k)
    expert = [hub[f"{block}mlp.experts.37.{way}_proj.weight"] for way in ("gate", "up", "down")]
    assert torch.equal(layer.mlp.experts.gate_up_proj[37], torch.cat(expert[:2]))
    assert torch.equal(layer.mlp.experts.down_proj[37], expert[2])
    assert torch.equal(layer.input_layernorm.weight, hub[block + "attn.attn_norm.weight"])
    assert torch.equal(layer.post_attention_layernorm.weight, hub[block + "mlp.ff_norm.weight"])
    table = [hub[f"model.transformer.wte.{name}"] for name in ("embedding", "new_embedding")]
    assert torch.equal(model.get_input_embeddings().weight, torch.cat(table))
    tower = "model.vision_backbone.image_vit.transformer.resblocks.21."
    assert torch.equal(model.model.vision_tower.layers[21].mlp.fc2.bias, hub[tower + "feed_forward.w2.bias"])
    projector = model.model.multi_modal_projector.image_projector
    assert torch.equal(projector.gate_proj.weight, hub["model.vision_backbone.image_projector.w1.weight"])
    assert torch.equal(projector.up_proj.weight, hub["model.vision_backbone.image_projector.w3.weight"])


@pytest.mark.parametrize("flat", [PRE_NORM, POST_NORM], ids=["7b_d", "7b_o"])
def test_dense_layouts(tmp_path, flat):
    grouped = flat is PRE_NORM
    model, hub = load(tmp_path, BASE | flat, dense_shapes(grouped=grouped))
    block, layer = "model.transformer.blocks.2.", model.decoder_layers[2]
    up, gate = hub[block + "ff_proj.weight"].chunk(2)
    assert torch.equal(layer.mlp.gate_proj.weight, gate) and torch.equal(layer.mlp.up_proj.weight, up)
    assert torch.equal(layer.mlp.down_proj.weight, hub[block + "ff_out.weight"])
    assert torch.equal(model.lm_head.weight, hub["model.transformer.ff_out.weight"])
    q, k, v = hub[block + "att_proj.weight"].split([8, 4, 4] if grouped else [8, 8, 8])
    for projection, rows in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
        assert torch.equal(getattr(layer.self_attn, projection).weight, rows)
    first, second = (hub[f"{block}{norm}.weight"] for norm in ("attn_norm", "ff_norm"))
    if grouped:
        assert torch.equal(layer.self_attn.v_proj.bias, hub[block + "att_proj.bias"][12:])
        assert torch.equal(layer.input_layernorm.weight, first)
        assert torch.equal(layer.post_attention_layernorm.weight, second)
    else:
        assert torch.equal(layer.post_attention_layernorm.weight, first)
        assert torch.equal(layer.post_feedforward_layernorm.weight, second)
