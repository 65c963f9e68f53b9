"""Every knob on every family: its effect, its absence, its undoing, and models that were really built so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contracts.knob_contract import fingerprint, logits, observe
from tests.models._hf.built import with_only, with_silent, with_top_k
from tests.models._hf.families import Family, ask
from tests.models._hf.test_generation import ours
from vlmprof import registry
from vlmprof.errors import KnobValueError
from vlmprof.measure.model_counts import ModelParts, counted
from vlmprof.records import Prompt
from vlmprof.surfaces import SURFACES, DecoderStack, ExpertRouting

KEPT = [(0, 1, 2), (1, 3), (0, 2), (2,)]
TOLERANCE = 2e-5


def values(family: Family) -> Iterator[tuple[str, Any]]:
    """(knob, value that changes the work) for every knob this family can turn."""
    recipe, lacks = family.recipe, family.anatomy.lacks
    yield "active_blocks", [1, 3]
    yield "active_blocks", {"drop": [0], "policy": "drop"}
    yield "output_tokens", 3
    yield "vision_tokens", recipe.vision_tokens
    if recipe.max_crops:
        yield "max_crops", recipe.max_crops
    if recipe.max_pixels:
        yield "max_pixels", recipe.max_pixels
    if ExpertRouting not in lacks:
        blocks = len(set(family.anatomy.router_blocks))
        yield from (("moe_top_k", k) for k in (1, 4, [1, 4, 3, 1][:blocks]))
    if family.anatomy.renormalises is False:
        yield "moe_top_k", {"k": 1, "renormalise": True}


def loads(family: Family) -> Iterator[tuple[str, str]]:
    """(knob, value that the family is not loaded with by itself) for every knob of loading."""
    anatomy = family.anatomy
    yield "dtype", "bfloat16"
    yield from (("attention", kernel) for kernel in anatomy.attention_kernels if kernel == "eager")
    yield from (("experts_kernel", kernel) for kernel in anatomy.experts_kernels[1:])


def test_every_surface_is_provided_or_its_absence_explained(family: Family) -> None:
    anatomy = family.anatomy
    assert anatomy.provides | set(anatomy.lacks) == set(SURFACES)
    assert not anatomy.provides & set(anatomy.lacks)
    turned = {registry.load("knobs", name).needs for name, _ in (*values(family), *loads(family))}
    assert turned == anatomy.provides


def test_the_effect_is_visible_and_a_knob_that_does_nothing_is_caught(family: Family, prompts: list[Prompt]) -> None:
    model, anatomy = family.model, family.anatomy
    idle = observe(model, prompts)
    for name, value in values(family):
        knob = registry.load("knobs", name)
        knob.check(value, anatomy)
        assert knob.effect(value, anatomy, observe(model, prompts, knob, value)) == "effective", (name, value)
        assert knob.effect(value, anatomy, idle) == "mismatch", (name, value)


def test_leaving_a_knob_restores_bit_for_bit(family: Family, prompts: list[Prompt]) -> None:
    model = family.model
    before, state = logits(model, prompts), fingerprint(model)
    for name, value in values(family):
        knob = registry.load("knobs", name)
        with knob.applied(model, value):
            during = logits(model, prompts)
        assert name == "output_tokens" or during.shape != before.shape or not torch.equal(during, before), (name, value)
        assert fingerprint(model) == state
        assert torch.equal(before, logits(model, prompts)), (name, value)
        with pytest.raises(ZeroDivisionError), knob.applied(model, value):
            raise ZeroDivisionError
        assert fingerprint(model) == state


def test_a_knob_of_loading_is_read_back_and_computes_the_same(family: Family, prompts: list[Prompt]) -> None:
    """Another load leaves the loaded model alone; a model that was not loaded so is caught."""
    leaf, before = registry.load("models", "transformers_vlm"), logits(family.model, prompts)
    idle = observe(family.model, prompts)
    for name, value in loads(family):
        knob = registry.load("knobs", name)
        knob.check(value, family.anatomy)
        assert knob.effect(value, family.anatomy, idle) == "mismatch", (name, value)
        loaded = leaf.load(replace(family.checkpoint, **{knob.load_argument: value}), "cpu")
        assert knob.effect(value, family.anatomy, observe(loaded, prompts, knob, value)) == "effective", (name, value)
        if name != "dtype":
            assert torch.allclose(before, logits(loaded, prompts), atol=TOLERANCE, rtol=0), (name, value)
    assert torch.equal(before, logits(family.model, prompts))


def test_fewer_blocks_equal_a_model_built_with_only_these(family: Family, prompts: list[Prompt]) -> None:
    model, deep = family.model, family.model._parts.deepstack
    for kept in KEPT:
        # Where vision features are added by position, a shorter model would add them elsewhere.
        reference = with_silent(model, kept) if deep else with_only(model, kept)
        with registry.load("knobs", "active_blocks").applied(model, kept):
            assert torch.allclose(logits(model, prompts), logits(reference, prompts), atol=TOLERANCE, rtol=0), kept
            assert ours(model, prompts) == ours(reference, prompts), kept


def test_top_k_equals_a_model_built_with_it(family: Family, prompts: list[Prompt]) -> None:
    if ExpertRouting in family.anatomy.lacks:
        with pytest.raises(KnobValueError, match="dense"):
            registry.load("knobs", "moe_top_k").check(1, family.anatomy)
        return
    knob = registry.load("knobs", "moe_top_k")
    for k in (1, 3, 4):
        reference = with_top_k(family.model, k)
        with knob.applied(family.model, k):
            assert torch.allclose(logits(family.model, prompts), logits(reference, prompts), atol=TOLERANCE, rtol=0)
            assert ours(family.model, prompts) == ours(reference, prompts), k
    with pytest.raises(KnobValueError, match="from 1 to 4, got 5"):
        knob.check(5, family.anatomy)


def test_renormalising_equals_a_model_built_so(family: Family, prompts: list[Prompt]) -> None:
    knob, value = registry.load("knobs", "moe_top_k"), {"k": 1, "renormalise": True}
    if family.anatomy.renormalises is None:
        with pytest.raises(KnobValueError, match=r"renormalis|dense"):
            knob.check(value, family.anatomy)
        return
    reference = with_top_k(family.model, 1, renormalise=True)
    with knob.applied(family.model, value):
        assert torch.allclose(logits(family.model, prompts), logits(reference, prompts), atol=TOLERANCE, rtol=0)


def test_knobs_combine_and_all_come_undone(family: Family, prompts: list[Prompt]) -> None:
    model, state = family.model, fingerprint(family.model)
    before = logits(model, prompts)
    blocks, whole = registry.load("knobs", "active_blocks"), ModelParts.of(model)
    with blocks.applied(model, [1, 3]):
        for name, value in values(family):
            if registry.load("knobs", name).needs is not DecoderStack:
                with registry.load("knobs", name).applied(model, value):
                    with counted(whole) as counts:
                        ours(model, prompts)
                    assert counts.blocks_executed == (1, 3), (name, value)
    assert fingerprint(model) == state
    assert torch.equal(before, logits(model, prompts))


def test_text_and_images_that_are_routed_apart_have_a_router_each(family_named: Callable[[str], Family]) -> None:
    """ERNIE: two routers in a block of experts; the blocks around them repeat their number and choose nothing."""
    ernie = family_named("ernie4_5_vl_moe")
    assert ernie.anatomy.router_blocks == (1, 1, 2, 2, 3, 3)
    whole = ModelParts.of(ernie.model)
    with registry.load("knobs", "moe_top_k").applied(ernie.model, [1, 3, 4]), counted(whole) as counts:
        ours(ernie.model, [ask("red", 64, 64)])
    assert [experts for experts, _ in counts.routing.values()] == [1, 1, 3, 3, 4, 4]


def test_a_target_gives_each_image_the_most_it_may_have(family: Family, prompts: list[Prompt]) -> None:
    model, target = family.model, family.recipe.vision_tokens
    budget = model._budget
    assert budget is not None
    with registry.load("knobs", "vision_tokens").applied(model, target):
        achieved = [encoding.vision_tokens for encoding in model.encode(prompts).encodings]
    for prompt, count in zip(prompts, achieved, strict=True):
        size = prompt.picture.height, prompt.picture.width
        possible = {budget.count(*size, value).vision_tokens for value in budget.values()}
        assert count == max(fit for fit in possible if fit <= target)
    fewest = min(budget.count(512, 512, value).vision_tokens for value in budget.values())
    with pytest.raises(KnobValueError, match=f"at least {fewest}"):
        registry.load("knobs", "vision_tokens").check(fewest - 1, family.anatomy)
