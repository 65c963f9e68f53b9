"""The dense Molmos, in miniature: what they can turn, and fewer blocks against models built with only these."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Olmo2Config, Qwen2Config

from tests.contracts.knob_contract import demo_prompts, fingerprint, kept_weights, logits, observe
from vlmprof import registry
from vlmprof.demo.config import demo_config, demo_image_processor
from vlmprof.demo.tokenizer import build_tokenizer
from vlmprof.engine.greedy import generate
from vlmprof.errors import KnobValueError
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor
from vlmprof.models.molmo.registration import register
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.surfaces import SURFACES, ExpertRouting, ExpertsKernel, PixelBudget

KINDS = {"Molmo (Qwen2)": Qwen2Config, "Molmo (OLMo2)": Olmo2Config}
KEPT = [(0, 1), (1, 3), (2,)]
SIZES = {"hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def config(architecture: str, blocks: int) -> MolmoConfig:
    made = demo_config()
    rows = made.text_config.vocab_size
    made.text_config = KINDS[architecture](
        **SIZES, num_hidden_layers=blocks, vocab_size=rows, max_position_embeddings=512, pad_token_id=None
    )
    return made


@pytest.fixture(scope="module", params=list(KINDS))
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Checkpoint]:
    register()
    torch.manual_seed(5)
    folder: Path = tmp_path_factory.mktemp("dense")
    model = MolmoForConditionalGeneration(config(request.param, 4))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    MolmoProcessor(demo_image_processor(), build_tokenizer()).save_pretrained(folder)
    return request.param, Checkpoint(path=str(folder), revision="", dtype="float32")


def built_with_only(model: LoadedMolmo, architecture: str, kept: tuple[int, ...]) -> LoadedMolmo:
    small = MolmoForConditionalGeneration(config(architecture, len(kept))).eval()
    small.load_state_dict(kept_weights(model._model.state_dict(), kept), strict=True)
    built = copy.copy(model)
    built._model = small
    return built


def test_fewer_blocks_equal_a_model_built_with_only_these(dense: tuple[str, Checkpoint]) -> None:
    architecture, checkpoint = dense
    model = registry.load("models", "molmo").load(checkpoint, "cpu")
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 4)
    before, state = logits(model, prompts), fingerprint(model)
    for kept in KEPT:
        built = built_with_only(model, architecture, kept)
        with registry.load("knobs", "active_blocks").applied(model, kept):
            assert torch.allclose(logits(model, prompts), logits(built, prompts), atol=2e-5, rtol=0), kept
            masked = generate(model, prompts, max_new_tokens=8, stop_at_eos=False)
        reference = generate(built, prompts, max_new_tokens=8, stop_at_eos=False)
        assert [g.text for g in masked.generations] == [g.text for g in reference.generations]
        assert fingerprint(model) == state
    assert torch.equal(before, logits(model, prompts))


TURNED = {"max_crops": 1, "vision_tokens": 40, "tiling": [1, 2], "output_tokens": 2, "active_blocks": [1, 3]}
LOADED = {"dtype": "bfloat16", "attention": "eager"}


def test_every_knob_it_has_acts_is_caught_when_it_does_not_and_comes_undone(dense: tuple[str, Checkpoint]) -> None:
    leaf, checkpoint = registry.load("models", "molmo"), dense[1]
    model, anatomy = leaf.load(checkpoint, "cpu"), leaf.describe(checkpoint)
    assert {registry.load("knobs", name).needs for name in (*TURNED, *LOADED)} == anatomy.provides
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 3)
    before, state, idle = logits(model, prompts), fingerprint(model), observe(model, prompts)
    for name, value in {**TURNED, **LOADED}.items():
        knob = registry.load("knobs", name)
        knob.check(value, anatomy)
        assert knob.effect(value, anatomy, idle) == "mismatch", name
        changed = {knob.load_argument: value} if knob.load_argument else {}
        turned = leaf.load(replace(checkpoint, **changed), "cpu") if changed else model
        assert knob.effect(value, anatomy, observe(turned, prompts, knob, value)) == "effective", name
        assert fingerprint(model) == state
        assert torch.equal(before, logits(model, prompts)), name


def test_a_dense_molmo_says_what_it_lacks(dense: tuple[str, Checkpoint]) -> None:
    architecture, checkpoint = dense
    anatomy = registry.load("models", "molmo").describe(checkpoint)
    assert anatomy.architecture == architecture
    assert anatomy.provides == set(SURFACES) - {ExpertRouting, ExpertsKernel, PixelBudget}
    with pytest.raises(KnobValueError, match="experts_kernel"):
        registry.load("knobs", "experts_kernel").check("eager", anatomy)
    with pytest.raises(KnobValueError, match="dense"):
        registry.load("knobs", "moe_top_k").check(1, anatomy)
