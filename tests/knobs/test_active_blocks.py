"""Fewer blocks, against a model that was really built with only these: logits, greedy tokens with cache, padded."""

import copy

import pytest
import torch

from tests.contracts.knob_contract import demo_prompts, kept_weights, logits
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.models.family import AbstractModel
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

KEPT = [(0, 1, 2), (1, 3, 5), (0, 7), (2,), (1, 2, 3, 4, 5, 6, 7)]


def built_with_only(model: AbstractModel, kept: tuple[int, ...]) -> AbstractModel:
    """A model constructed from a configuration of that many blocks, given those blocks' weights."""
    whole = model._model  # type: ignore[attr-defined]
    config = copy.deepcopy(whole.config)
    config.text_config.num_hidden_layers = len(kept)
    small = MolmoForConditionalGeneration(config).eval()
    small.load_state_dict(kept_weights(whole.state_dict(), kept), strict=True)
    built = copy.copy(model)
    built._model = small  # type: ignore[attr-defined]
    return built


@pytest.mark.parametrize("kept", KEPT)
def test_it_equals_a_model_built_with_only_these_blocks(model: AbstractModel, kept: tuple[int, ...]) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 5)
    built = built_with_only(model, kept)
    with registry.load("knobs", "active_blocks").applied(model, kept):
        assert torch.allclose(logits(model, prompts), logits(built, prompts), atol=2e-5, rtol=0)
        masked = generate(model, prompts, max_new_tokens=10, stop_at_eos=False)
    reference = generate(built, prompts, max_new_tokens=10, stop_at_eos=False)
    assert [g.text for g in masked.generations] == [g.text for g in reference.generations]


def test_a_no_op_block_left_in_place_would_not_be_equal(model: AbstractModel) -> None:
    """The trap this knob avoids, shown: identity blocks that keep their slot in the cache."""
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 5)
    built = built_with_only(model, (1, 2, 3, 4, 5, 6, 7))
    first = model.decoder.layers[0]
    forward = first.forward
    first.forward = lambda hidden_states, *args, **kwargs: hidden_states
    try:
        naive = generate(model, prompts, max_new_tokens=10, stop_at_eos=False)
    finally:
        first.forward = forward
    reference = generate(built, prompts, max_new_tokens=10, stop_at_eos=False)
    assert [g.text for g in naive.generations] != [g.text for g in reference.generations]
