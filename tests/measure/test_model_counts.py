import pytest

from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.measure.model_counts import ModelParts, counted
from vlmprof.models.family import AbstractModel


def test_it_counts_what_ran_and_not_what_was_set(model: AbstractModel) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 2)
    with counted(ModelParts.of(model)) as whole:
        generate(model, prompts, max_new_tokens=2)
    assert whole.blocks_executed == tuple(range(8))
    assert whole.experts_per_token == 8
    model.decoder.config.num_experts_per_tok = 1  # what the predecessor edited, and what changes nothing
    whole_stack = ModelParts.of(model)
    with registry.load("knobs", "active_blocks").applied(model, [1, 6]), counted(whole_stack) as edited:
        generate(model, prompts, max_new_tokens=2)
    model.decoder.config.num_experts_per_tok = 8
    assert edited.blocks_executed == (1, 6)
    assert edited.experts_per_token == 8


def test_it_counts_inside_the_model_what_the_vision_side_did(model: AbstractModel) -> None:
    """Crops, patches and places by the sizes of the demo: 1 + 3 x 3 crops and a class token, 80 vision tokens."""
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 3)
    for cap in (9, 1):
        with registry.load("knobs", "max_crops").applied(model, cap), counted(ModelParts.of(model)) as counts:
            said = [one.encoding for one in generate(model, prompts, max_new_tokens=3, stop_at_eos=False).generations]
        vision = model._model.config.vision_config  # type: ignore[attr-defined]
        patches = (vision.image_size // vision.patch_size) ** 2 + 1
        assert counts.crops == sum(encoding.crops for encoding in said)
        assert counts.patches == patches * counts.crops
        assert counts.image_tokens == sum(encoding.vision_tokens for encoding in said)
        assert (counts.prompts, counts.forwards) == (3, 3)
    assert {encoding.crops for encoding in said} == {2}


def test_it_counts_router_by_router(model: AbstractModel) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 1)
    whole, ks = ModelParts.of(model), [1, 2, 3, 4, 5, 6, 7, 8]
    with registry.load("knobs", "moe_top_k").applied(model, ks), counted(whole) as counts:
        generate(model, prompts, max_new_tokens=2)
    assert counts.routing == {router: (k, False) for router, k in enumerate(ks)}
    with registry.load("knobs", "moe_top_k").applied(model, {"k": 2, "renormalise": True}), counted(whole) as counts:
        generate(model, prompts, max_new_tokens=2)
    assert set(counts.routing.values()) == {(2, True)}


def test_it_leaves_no_hook_behind(model: AbstractModel) -> None:
    with pytest.raises(ZeroDivisionError), counted(ModelParts.of(model)):
        raise ZeroDivisionError
    assert all(not module._forward_pre_hooks for module in model.network.modules())
    assert all(not block._forward_hooks for block in model.decoder.layers)
    assert all(not router._forward_hooks for router in model.routers)  # type: ignore[attr-defined]
