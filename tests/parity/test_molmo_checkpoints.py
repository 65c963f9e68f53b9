"""The Hub's files load exactly or not at all, and what we save loads again under our own names."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from vlmprof.errors import ModelError
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.registration import register
from vlmprof.models.molmo.weights import load_strict

PROVENANCE = ("dtype", "transformers_version", "_name_or_path", "architectures")
EXPERT = "model.transformer.blocks.2.mlp.experts.5.up_proj.weight"


def rewrite(folder, target, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((folder / "config.json").read_text())
    return target


def described(config):
    """What a configuration says of the model, without where it came from."""
    values = config.to_dict()
    for part in (values, values["text_config"], values["vision_config"]):
        for key in PROVENANCE:
            part.pop(key, None)
    return values


@pytest.mark.parametrize(
    "name",
    [
        "model.transformer.ln_f.weight",
        "lm_head.weight",
        "model.vision_backbone.pad_embed",
        "model.vision_backbone.image_vit.transformer.resblocks.3.ffn_norm.bias",
        "model.transformer.wte.new_embedding",
        EXPERT,
    ],
)
def test_a_missing_tensor_is_an_error(hub_folder, tmp_path, name):
    rewrite(hub_folder, tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError):
        load_strict(tmp_path, dtype=torch.float32)


def test_an_extra_tensor_is_an_error_that_names_it(hub_folder, tmp_path):
    rewrite(hub_folder, tmp_path, lambda tensors: tensors.update({"model.transformer.extra.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"1 not expected: model\.transformer\.extra\.weight"):
        load_strict(tmp_path, dtype=torch.float32)


def test_a_tensor_of_another_shape_is_an_error(hub_folder, tmp_path):
    rewrite(hub_folder, tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.ones(255, 64)}))
    with pytest.raises(ModelError, match=r"1 of another shape: lm_head\.weight \(\[255, 64\] instead of \[256, 64\]\)"):
        load_strict(tmp_path, dtype=torch.float32)


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_strict(tmp_path)


@torch.inference_mode()
def test_saved_under_native_names_and_loaded_again(moe, reference, tmp_path):
    moe.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(moe.state_dict())
    again = load_strict(tmp_path, dtype=torch.float32).eval()
    assert described(again.config) == described(moe.config)
    for name, tensor in moe.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    prompt, images = reference.prompt("img_b"), reference.images("img_b")
    # Equal weights at other addresses: vectorised kernels may take other paths, so not always equal bits.
    assert (again(**prompt, **images).logits - moe(**prompt, **images).logits).abs().max().item() < 2e-5


@pytest.mark.parametrize("auto", [AutoModelForImageTextToText, AutoModelForCausalLM])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_auto_classes_read_a_hub_folder_without_remote_code(hub_folder, auto, implementation):
    assert register()
    model, report = auto.from_pretrained(hub_folder, output_loading_info=True, experts_implementation=implementation)
    assert isinstance(model, MolmoForConditionalGeneration)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.text._experts_implementation == implementation
    assert model.dtype == torch.bfloat16  # as stored
