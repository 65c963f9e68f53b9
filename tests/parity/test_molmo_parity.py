"""The native Molmo reproduces the original code: logits, features, caches, knobs. float32 within 2e-5."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

TOLERANCE = 2e-5
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
PICTURES = ("img_a", "img_b")


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours.float() - theirs).abs().max().item()


def scaled_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """In standard deviations: connector features deviate by 4.4, and float32 itself is off by 3e-5 there."""
    return error(ours, theirs) / theirs.std().item()


def greedy(model, count, prompt, images, **options):
    """Greedy tokens (batch, count) and the logits that chose them (batch, count, rows)."""
    out = model.generate(
        **prompt,
        **images,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=198,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return out.sequences[:, -count:], torch.stack(out.logits, dim=1)


@contextmanager
def experts(model, implementation: str) -> Iterator[None]:
    before = model.config.text._experts_implementation
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


@contextmanager
def blocks(model, keep: list[int]) -> Iterator[None]:
    decoder = model.model.language_model
    whole = decoder.layers
    decoder.layers = nn.ModuleList(whole[index] for index in keep)
    decoder.config.num_hidden_layers = len(keep)
    for new, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = new
    try:
        yield
    finally:
        decoder.layers = whole
        decoder.config.num_hidden_layers = len(whole)
        for index, layer in enumerate(whole):
            layer.self_attn.layer_idx = index


@contextmanager
def top_k(model, value: int) -> Iterator[None]:
    routers = [layer.mlp.gate for layer in model.decoder_layers]
    before = [router.top_k for router in routers]
    try:
        for router in routers:
            router.top_k = value
        yield
    finally:
        for router, old in zip(routers, before, strict=True):
            router.top_k = old


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@torch.inference_mode()
def test_text_logits_and_every_hidden_state(moe, reference, implementation):
    with experts(moe, implementation):
        out = moe(reference["text/input_ids"], output_hidden_states=True)
    assert error(out.logits, reference["text/logits"]) < TOLERANCE
    assert error(torch.stack(out.hidden_states), reference["text/hidden_states"]) < TOLERANCE


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
@pytest.mark.parametrize("case", PICTURES)
@torch.inference_mode()
def test_picture_logits(moe, reference, case, implementation):
    with experts(moe, implementation):
        logits = moe(**reference.prompt(case), **reference.images(case)).logits[0]
    assert error(logits[reference[f"{case}/positions"].long()], reference[f"{case}/logits"]) < TOLERANCE
    assert torch.equal(logits.argmax(-1).int(), reference[f"{case}/argmax"])


@torch.inference_mode()
def test_picture_logits_with_batched_experts(moe, reference):
    with experts(moe, "batched_mm"):  # on the small picture: this implementation copies weights for every token
        logits = moe(**reference.prompt("img_b"), **reference.images("img_b")).logits[0]
    assert error(logits[reference["img_b/positions"].long()], reference["img_b/logits"]) < TOLERANCE


@pytest.mark.parametrize("case", PICTURES)
@torch.inference_mode()
def test_merged_embeddings_and_all_connector_slots(moe, reference, case):
    images = reference.images(case)
    merged = moe.model.merge(reference.prompt(case)["input_ids"], moe.get_image_features(**images))
    assert scaled_error(merged[0, ::7], reference[f"{case}/hidden0_s7"]) < TOLERANCE
    # The original pools every cell of every crop, also those that no token shows; ask for all of them.
    crops = images["pixel_values"].shape[0]
    every = torch.arange(crops * 576).view(crops, 12, 2, 12, 2).transpose(2, 3).reshape(crops * 144, 4)
    features = moe.get_image_features(**{**images, "image_token_pooling": every}).view(crops, 144, -1)
    assert scaled_error(features[:, ::5], reference[f"{case}/vision_features_s5"]) < TOLERANCE


@pytest.mark.parametrize("case", PICTURES)
def test_greedy_tokens_and_step_logits_with_a_cache(moe, reference, case):
    tokens, logits = greedy(moe, 9, reference.prompt(case), reference.images(case))
    assert torch.equal(tokens[0, :8], reference[f"{case}/generated"])
    assert error(logits[0], reference[f"{case}/step_logits"]) < TOLERANCE


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"use_cache": False}], ids=["static", "none"])
def test_other_caches_give_the_same_tokens(moe, reference, options):
    tokens, logits = greedy(moe, 8, reference.prompt("img_b"), reference.images("img_b"), **options)
    assert torch.equal(tokens[0], reference["img_b/generated"])
    assert error(logits[0], reference["img_b/step_logits"][:8]) < TOLERANCE


@torch.inference_mode()
def test_features_computed_apart_serve_as_well_as_pixels(moe, reference):
    prompt, images = reference.prompt("img_b"), reference.images("img_b")
    features = moe.get_image_features(**images)
    assert features.shape == (images["image_token_pooling"].shape[0], 64)
    assert torch.equal(moe(**prompt, image_features=features).logits, moe(**prompt, **images).logits)
    tokens, _ = greedy(moe, 8, prompt, {"image_features": features})
    assert torch.equal(tokens[0], reference["img_b/generated"])


@pytest.mark.parametrize("value", [1, 2, 8])
@torch.inference_mode()
def test_experts_per_token(moe, reference, value):
    with top_k(moe, value):
        logits = moe(**reference.prompt("img_b"), **reference.images("img_b")).logits[0]
    assert error(logits[reference["img_b/positions"].long()], reference[f"topk/{value}/logits"]) < TOLERANCE


@pytest.mark.parametrize("skipped", [0, 1, 3])
def test_removed_blocks_with_and_without_cache(moe, reference, skipped):
    case = f"blocks/skip_{skipped}"
    prompt, images = reference.prompt("img_b"), reference.images("img_b")
    with blocks(moe, reference[f"{case}/keep"].tolist()):
        with torch.inference_mode():
            logits = moe(**prompt, **images).logits[0]
        tokens, _ = greedy(moe, 8, prompt, images)
    assert error(logits[reference["img_b/positions"].long()], reference[f"{case}/logits"]) < TOLERANCE
    assert torch.equal(tokens[0], reference[f"{case}/generated"])


@torch.inference_mode()
def test_right_padded_text_batch(moe, reference):
    ids = reference["pad/input_ids"]
    valid = ids >= 0
    logits = moe(ids.clamp(min=0), attention_mask=valid.long()).logits
    assert error(logits[valid], reference["pad/logits"][valid]) < TOLERANCE


@torch.inference_mode()
def test_one_block_apart(moe, reference):
    layer, x = moe.decoder_layers[0], reference["moe_layer0/x"]
    normed = layer.post_attention_layernorm(x)
    assert error(layer.mlp(normed), reference["moe_layer0/y"]) < TOLERANCE
    assert error(layer.mlp.gate(normed[0])[0], reference["moe_layer0/router_logits"]) < TOLERANCE
    rotary = moe.model.language_model.rotary_emb(x, torch.arange(x.shape[1])[None])
    attended, _ = layer.self_attn(layer.input_layernorm(x), position_embeddings=rotary, attention_mask=None)
    assert error(attended, reference["attn_layer0/y"]) < TOLERANCE


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padded_batch_equals_single_runs(moe, reference, cache):
    singles = [reference["img_a/input_ids"], reference["img_b/input_ids"]]
    longest = max(map(len, singles))
    ids = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in singles])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), (longest - len(row), 0)) for row in singles])
    a, b = reference.images("img_a"), reference.images("img_b")
    second = b["image_token_pooling"] + a["pixel_values"].shape[0] * 576
    images = {key: torch.cat([a[key], b[key]]) for key in ("pixel_values", "image_masks")}
    images["image_token_pooling"] = torch.cat([a["image_token_pooling"], second])
    options = {} if cache == "dynamic" else {"cache_implementation": cache}
    tokens, logits = greedy(moe, 8, {"input_ids": ids, "attention_mask": mask}, images, **options)
    for row, case in enumerate(PICTURES):
        assert torch.equal(tokens[row], reference[f"{case}/generated"])
        assert error(logits[row], reference[f"{case}/step_logits"][:8]) < TOLERANCE


@torch.inference_mode()
def test_dense_model_with_grouped_attention_and_bias(dense, reference, dense_reference):
    assert error(dense(reference["text/input_ids"]).logits, dense_reference["text/logits"]) < TOLERANCE
    prompt, images = dense_reference.prompt("img_b"), reference.images("img_b")
    logits = dense(**prompt, **images).logits[0]
    assert error(logits[reference["img_b/positions"].long()], dense_reference["img_b/logits"]) < TOLERANCE
    _, steps = greedy(dense, 7, prompt, images)
    assert error(steps[0], dense_reference["img_b/step_logits"]) < TOLERANCE


@pytest.mark.parametrize("case", PICTURES)
@torch.inference_mode()
def test_bf16_stays_near_the_truth_on_average(moe_bf16, reference, case):
    images = reference.images(case)
    for halves in (False, True):  # pixels in bf16 too: the original then takes real pixels for padding
        images["pixel_values"] = images["pixel_values"].to(torch.bfloat16 if halves else torch.float32)
        logits = moe_bf16(**reference.prompt(case), **images).logits[0].float()
        mean = (logits[reference[f"{case}/positions"].long()] - reference[f"{case}/logits"]).abs().mean().item()
        assert mean < 0.06, f"mean error {mean:.3f}; a router flip moves single positions, not the mean"


@torch.inference_mode()
def test_unused_vision_block_changes_nothing(moe, reference):
    images, ran = reference.images("img_b"), []
    last = moe.model.vision_tower.layers[-1]
    hook = last.register_forward_hook(lambda *_: ran.append(1))
    skipping = moe.get_image_features(**images)
    assert not ran
    moe.config.vision.run_unused_layers = True
    try:
        assert torch.equal(moe.get_image_features(**images), skipping)
    finally:
        moe.config.vision.run_unused_layers = False
        hook.remove()
    assert ran


def test_reference_scale_is_what_the_tolerance_assumes(reference):
    assert math.isclose(reference["img_a/logits"].std().item(), 0.95, rel_tol=0.15)
