"""Ten faults put in on purpose: each must break parity, and taking it out must restore every bit.

Without them a parity of 1e-6 could mean that the comparison sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

TOLERANCE = 2e-5
CASE = "img_a"


@contextmanager
def replaced(tensor: torch.Tensor, new: torch.Tensor) -> Iterator[None]:
    old = tensor.detach().clone()
    with torch.no_grad():
        tensor.copy_(new)
    try:
        yield
    finally:
        with torch.no_grad():
            tensor.copy_(old)


@contextmanager
def attribute(owner: object, name: str, value: object) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


def renormalised_top_k(model, _):
    return attribute(model.decoder_layers[0].mlp.gate, "norm_topk_prob", True)


def padding_embedding_zero(model, _):
    pad = model.model.multi_modal_projector.pad_embed
    return replaced(pad, torch.zeros_like(pad))


def padding_embeddings_swapped(model, _):
    pad = model.model.multi_modal_projector.pad_embed
    return replaced(pad, pad.flip(0))


def vision_layers_swapped(model, _):
    return attribute(model.config.vision, "vision_feature_layers", [-9, -2])


def query_norm_reset(model, _):
    weight = model.decoder_layers[1].self_attn.q_norm.weight
    return replaced(weight, torch.ones_like(weight))


def gate_and_up_swapped(model, _):
    weight = model.decoder_layers[0].mlp.experts.gate_up_proj
    gate, up = weight.chunk(2, dim=1)
    return replaced(weight, torch.cat([up, gate], dim=1))


def another_rotary_base(model, _):
    buffer = model.model.language_model.rotary_emb.inv_freq
    return replaced(buffer, buffer**1.05)


def masks_realigned(_, images):
    return replaced(images["image_masks"], images["image_masks"].roll(1, 0))


def windows_off_by_one(_, images):
    return replaced(images["image_token_pooling"], images["image_token_pooling"].roll(1, 0))


def pixels_scaled(_, images):
    return replaced(images["pixel_values"], images["pixel_values"] * 1.001)


FAULTS: list[Callable] = [
    renormalised_top_k,
    padding_embedding_zero,
    padding_embeddings_swapped,
    vision_layers_swapped,
    query_norm_reset,
    gate_and_up_swapped,
    another_rotary_base,
    masks_realigned,
    windows_off_by_one,
    pixels_scaled,
]


@pytest.fixture(scope="module")
def images(reference):
    return reference.images(CASE)


@pytest.fixture(scope="module")
def sound(moe, reference, images):
    with torch.inference_mode():
        return moe(**reference.prompt(CASE), **images).logits[0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@torch.inference_mode()
def test_a_fault_breaks_parity_and_its_removal_restores_it(moe, reference, images, sound, fault):
    theirs = reference[f"{CASE}/logits"]
    places = reference[f"{CASE}/positions"].long()
    with fault(moe, images):
        broken = moe(**reference.prompt(CASE), **images).logits[0]
    assert (broken[places] - theirs).abs().max().item() > 100 * TOLERANCE
    restored = moe(**reference.prompt(CASE), **images).logits[0]
    assert torch.equal(restored, sound)
    assert (restored[places] - theirs).abs().max().item() < TOLERANCE
