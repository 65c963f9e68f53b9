from __future__ import annotations

import pytest
import torch

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.text_models import TEXT_MODELS

PROMPT = " User: what is this Assistant:"


def generate(model, batch, **options):
    out = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0, **options)
    return out[:, -5:]


def test_released_sizes():
    with torch.device("meta"):
        model = MolmoForConditionalGeneration(MolmoConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_221_875_712
    assert sum(parameter.numel() for parameter in model.model.vision_tower.parameters()) // 10**5 == 2909


def test_knob_places(model):
    assert model.decoder_layers is model.model.language_model.layers
    assert [layer.mlp.gate.top_k for layer in model.decoder_layers] == [4, 4, 4]
    assert model.get_decoder() is model.model.language_model
    assert model.get_input_embeddings().weight.shape == (14, 32)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@torch.inference_mode()
def test_experts_implementations_agree(model, processor, make_picture, implementation):
    batch = processor(PROMPT, make_picture(80, 60))
    before = model.config.text._experts_implementation
    expected = model(**batch).logits
    model.set_experts_implementation(implementation)
    try:
        assert model.config.text._experts_implementation == implementation
        assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
    finally:
        model.set_experts_implementation(before)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_a_batch_answers_as_its_rows_do(model, processor, make_picture, attention):
    prompts, pictures = [PROMPT, " User: red", PROMPT], [make_picture(150, 100, 1), None, make_picture(40, 40, 2)]
    model.set_attn_implementation(attention)
    try:
        together = generate(model, processor(prompts, pictures))
        alone = [generate(model, processor(p, i))[0] for p, i in zip(prompts, pictures, strict=True)]
        assert torch.equal(together, torch.stack(alone))
        assert len({tuple(row.tolist()) for row in together}) > 1  # rows differ, so the comparison sees something
    finally:
        model.set_attn_implementation("sdpa")


@torch.inference_mode()
def test_pictures_matter_and_only_on_their_own_row(model, processor, make_picture):
    first, second = make_picture(60, 60, 1), make_picture(60, 60, 2)
    a = model(**processor([PROMPT] * 2, [first, first])).logits
    b = model(**processor([PROMPT] * 2, [first, second])).logits
    assert torch.allclose(a[0], b[0], atol=1e-5)
    assert (a[1] - b[1]).abs().max() > 0.01


@torch.inference_mode()
def test_half_precision_pixels_do_not_erase_the_picture(model, processor):
    # Green 50 becomes exactly -1.0 in bf16, the value by which the original marks padding.
    import numpy as np

    grey = np.full((64, 64, 3), 50, dtype=np.uint8)
    grey[16:48, 16:48] = 200
    batch = processor(PROMPT, grey)
    features = model.get_image_features(batch["pixel_values"], batch["image_masks"], batch["image_token_pooling"])
    halves = model.get_image_features(
        batch["pixel_values"].to(torch.bfloat16), batch["image_masks"].to(torch.bfloat16), batch["image_token_pooling"]
    )
    assert (halves - features).abs().mean() < 0.02 * features.std()


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_caches_agree(model, processor, make_picture, options):
    batch = processor(PROMPT, make_picture(80, 60))
    assert torch.equal(generate(model, batch), generate(model, batch, **options))


def test_the_tower_runs_once_a_generation(model, processor, make_picture):
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        generate(model, processor(PROMPT, make_picture(80, 60)))
    finally:
        hook.remove()
    assert len(calls) == 1


def test_every_parameter_learns(make_config, processor, make_picture):
    torch.manual_seed(0)
    model = MolmoForConditionalGeneration(make_config()).train()
    batch = processor(PROMPT, make_picture(80, 60))
    labels = torch.where(batch["input_ids"] == model.config.image_patch_id, -100, batch["input_ids"])
    plain = model(**batch, labels=labels)
    out = model(**batch, labels=labels, output_router_logits=True)
    assert len(out.router_logits) == 3 and plain.router_logits is None and plain.aux_loss is None
    balance = model.config.text.router_aux_loss_coef * out.aux_loss
    assert torch.allclose(out.loss, plain.loss + balance)
    out.loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_gradient_checkpointing_and_bf16(make_config, processor, make_picture):
    model = MolmoForConditionalGeneration(make_config()).to(torch.bfloat16).train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # renamed
    enable()
    batch = processor(PROMPT, make_picture(40, 40))
    out = model(**batch, labels=batch["input_ids"].where(batch["input_ids"] > 6, -100))
    out.loss.backward()
    assert out.logits.dtype == torch.bfloat16 and torch.isfinite(out.loss)


@torch.inference_mode()
def test_logits_to_keep_and_hidden_states(model, processor):
    batch = processor(PROMPT)
    out = model(**batch, logits_to_keep=2, output_hidden_states=True)
    assert out.logits.shape[1] == 2
    assert torch.allclose(out.logits, model(**batch).logits[:, -2:], atol=1e-5)
    assert len(out.hidden_states) == 4


@pytest.mark.parametrize("kind", ["qwen2", "olmo2"])
def test_dense_text_models(make_config, processor, make_picture, kind):
    text = {"model_type": kind, "vocab_size": 20, "hidden_size": 32, "intermediate_size": 48}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": None}
    model = MolmoForConditionalGeneration(make_config(text_config=text, additional_vocab_size=6)).eval()
    assert isinstance(model.model.language_model, TEXT_MODELS[kind])
    batch = processor(PROMPT, make_picture(40, 40))
    assert model(**batch).logits.shape[-1] == 14
    assert generate(model, batch).shape == (1, 5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: b.update(image_token_pooling=b["image_token_pooling"][:-1]), "40 image tokens but there are 39"),
        (lambda b: b.pop("image_masks"), "need image_masks and image_token_pooling"),
        (lambda b: b.update(image_features=torch.zeros(32, 32)), "pass only one of them"),
        (lambda b: b.update(inputs_embeds=torch.zeros(*b.pop("input_ids").shape, 32)), "images need input_ids"),
    ],
)
def test_inputs_that_contradict_each_other(model, processor, make_picture, change, match):
    batch = dict(processor(PROMPT, make_picture(40, 90)))
    change(batch)
    with pytest.raises(ValueError, match=match):
        model(**batch)


def test_beams_with_pictures_are_refused(model, processor, make_picture):
    with pytest.raises(ValueError, match="beams or several sequences"):
        generate(model, processor(PROMPT, make_picture(40, 40)), num_beams=2)


def test_beams_without_pictures(model, processor):
    assert generate(model, processor(PROMPT), num_beams=2).shape == (1, 5)


def test_an_unknown_image_token_is_an_error(model, processor, make_picture):
    batch, known = processor(PROMPT, make_picture(40, 40)), model.config.image_patch_id
    model.config.image_patch_id = None
    try:
        with pytest.raises(ValueError, match="image_patch_id is None"):
            model(**batch)
    finally:
        model.config.image_patch_id = known
