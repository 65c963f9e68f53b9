"""The post-norm dense model (7B-O) against plain tensor code, since no run of the original is at hand.

The plain code reads the Hub's tensors directly and knows nothing of transformers. It is first held against the run of
the original that we do have (7B-D's kind), then switched to 7B-O's arrangement.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from vlmprof.models.molmo.weights import load_strict

DATA = Path(__file__).parent / "data"
TOLERANCE = 2e-5


def rms(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """(heads, sequence, dim), half-rotation."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def attention(x, block, config):
    heads, kv = config["n_heads"], config["n_kv_heads"] or config["n_heads"]
    dim = config["d_model"] // heads
    fused = F.linear(x, block["att_proj.weight"], block.get("att_proj.bias"))
    q, k, v = fused.split([heads * dim, kv * dim, kv * dim], dim=-1)
    if config["attention_layer_norm"]:
        q = rms(q, block["q_norm.weight"], config["layer_norm_eps"])
        k = rms(k, block["k_norm.weight"], config["layer_norm_eps"])
    q, k, v = (t.view(len(x), -1, dim).transpose(0, 1) for t in (q, k, v))
    q, k = rotate(q, config["rope_theta"]), rotate(k, config["rope_theta"])
    k, v = (t.repeat_interleave(heads // kv, dim=0) for t in (k, v))
    scores = (q @ k.transpose(1, 2)) * dim**-0.5
    causal = torch.full((len(x), len(x)), float("-inf")).triu(1)
    mixed = ((scores + causal).softmax(-1) @ v).transpose(0, 1).flatten(1)
    return F.linear(mixed, block["attn_out.weight"])


def mlp(x, block):
    up, gate = F.linear(x, block["ff_proj.weight"]).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, block["ff_out.weight"])


def plain_logits(ids, tensors, config):
    tensors = {key.removeprefix("model.transformer."): value.float() for key, value in tensors.items()}
    eps, after = config["layer_norm_eps"], config["norm_after"]
    x = torch.cat([tensors["wte.embedding"], tensors["wte.new_embedding"]])[ids]
    for index in range(config["n_layers"]):
        head = f"blocks.{index}."
        block = {key.removeprefix(head): value for key, value in tensors.items() if key.startswith(head)}
        attention_norm, mlp_norm = block["attn_norm.weight"], block["ff_norm.weight"]
        if after:
            x = x + rms(attention(x, block, config), attention_norm, eps)
            x = x + rms(mlp(x, block), mlp_norm, eps)
        else:
            x = x + attention(rms(x, attention_norm, eps), block, config)
            x = x + mlp(rms(x, mlp_norm, eps), block)
    return F.linear(rms(x, tensors["ln_f.weight"], eps), tensors["ff_out.weight"])


@pytest.fixture(scope="module")
def config():
    return json.loads((DATA / "dense_d_config.json").read_text())


@pytest.fixture(scope="module")
def tensors():
    return load_file(DATA / "dense_d_weights.safetensors")


def test_the_plain_code_agrees_with_the_original_where_we_have_it(config, tensors, reference, dense_reference):
    logits = plain_logits(reference["text/input_ids"][0], tensors, config)
    assert (logits - dense_reference["text/logits"][0]).abs().max().item() < TOLERANCE


@torch.inference_mode()
def test_post_norm_model(config, tensors, reference, tmp_path):
    config |= {"attention_layer_norm": True, "qkv_bias": False, "norm_after": True, "n_kv_heads": 4, "rope_theta": 5e5}
    generator = torch.Generator().manual_seed(11)
    tensors = {key: value for key, value in tensors.items() if not key.endswith("att_proj.bias")}
    for index in range(config["n_layers"]):
        head = f"model.transformer.blocks.{index}."
        tensors[head + "att_proj.weight"] = torch.randn(192, 64, generator=generator) / 8
        for norm in ("q_norm", "k_norm"):
            tensors[f"{head}{norm}.weight"] = 1 + 0.2 * torch.randn(64, generator=generator)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "molmo"}))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load_strict(tmp_path, dtype=torch.float32).eval()
    ids = reference["text/input_ids"]
    assert (model(ids).logits[0] - plain_logits(ids[0], tensors, config)).abs().max().item() < TOLERANCE
    model.save_pretrained(tmp_path / "again")
    again = load_strict(tmp_path / "again", dtype=torch.float32).eval()
    assert torch.equal(again(ids).logits, model(ids).logits)
