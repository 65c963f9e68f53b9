"""Tokens, features and batches of every family, against the library's own generation."""

from __future__ import annotations

import pytest
import torch

from tests.measure.test_flops import uncounted
from tests.models._hf.families import Family, ask
from vlmprof.engine.greedy import generate
from vlmprof.engine.kernels import DecodeKernels
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import Mismatch
from vlmprof.measure.clock import HostClock
from vlmprof.measure.count_check import require_counts_match
from vlmprof.measure.model_counts import ModelCounts, ModelParts, counted
from vlmprof.models._hf.runtime import LoadedVlm, _render_chat
from vlmprof.records import Prompt

NEW = 8


def ours(model: LoadedVlm, prompts: list[Prompt]) -> list[list[int]]:
    """(prompts, NEW) greedy tokens through the engine's steps."""
    batch = model.transfer(model.encode(prompts))
    state = model.prefill(batch, model.see(batch), NEW)
    steps = [state.next_tokens]
    while len(steps) < NEW:
        state = model.step(state)
        steps.append(state.next_tokens)
    return torch.stack(steps, 1).tolist()


def the_library_s(model: LoadedVlm, prompts: list[Prompt]) -> list[list[int]]:
    """The same from one call of the processor with padding, and one of ``generate``."""
    texts = [_render_chat(model._processor, prompt.text) for prompt in prompts]
    pictures = [[prompt.picture.load()] for prompt in prompts]
    model._processor.tokenizer.padding_side = "left"
    inputs = model._processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    made = model._model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0)
    return made[:, inputs["input_ids"].shape[1] :].tolist()


def test_greedy_tokens_are_those_of_the_library_batched_and_padded(family: Family, prompts: list[Prompt]) -> None:
    lengths = {encoding.prompt_tokens for encoding in family.model.encode(prompts).encodings}
    assert len(lengths) > 1, "nothing is padded"
    tokens = ours(family.model, prompts)
    assert tokens == the_library_s(family.model, prompts)
    assert len({tuple(row) for row in tokens}) > 1, "the answers say nothing about the prompts"


@pytest.mark.parametrize("ours", [False, True], ids=["the library's kernels", "our kernels"])
def test_steps_on_fixed_memory_say_the_same(family: Family, prompts: list[Prompt], ours: bool) -> None:
    engine = StaticEngine("graphs", capture=False, kernels=DecodeKernels(attention=ours, experts=ours))
    eager = generate(family.model, prompts, max_new_tokens=NEW, stop_at_eos=False).generations
    assert generate(family.model, prompts, max_new_tokens=NEW, stop_at_eos=False, engine=engine).generations == eager


def test_interleaved_batches_do_not_disturb_each_other(family: Family, prompts: list[Prompt]) -> None:
    """What a model remembers between forwards (rotary offsets of Qwen-VL) must not leak into another batch."""
    model, (first, second) = family.model, (prompts[:2], prompts[2:])
    alone = [ours(model, first), ours(model, second)]
    batches = [model.transfer(model.encode(half)) for half in (first, second)]
    states = [model.prefill(batch, model.see(batch), NEW) for batch in batches]
    steps = [[state.next_tokens] for state in states]
    for _ in range(NEW - 1):
        states = [model.step(state) for state in states]
        for taken, state in zip(steps, states, strict=True):
            taken.append(state.next_tokens)
    assert [torch.stack(taken, 1).tolist() for taken in steps] == alone


def test_the_vision_side_runs_once_and_only_while_seeing(family: Family, prompts: list[Prompt]) -> None:
    model, runs = family.model, []
    tower = model._model.get_encoder(modality="image")
    handle = tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        batch = model.transfer(model.encode(prompts))
        assert not runs
        features = model.see(batch)
        assert len(runs) == 1
        model.step(model.prefill(batch, features, 2))
        assert len(runs) == 1
    finally:
        handle.remove()
    assert len(features) == sum(encoding.vision_tokens for encoding in batch.encodings)
    assert "get_image_features" not in vars(model._parts.feature_owner)


def test_hooks_count_what_the_preprocessing_said(family: Family, prompts: list[Prompt]) -> None:
    model, whole = family.model, ModelParts.of(family.model)
    for target in (family.recipe.vision_tokens, None):
        model.vision_tokens = target
        try:
            for prompt in prompts:
                with counted(whole) as counts:
                    run = generate(model, [prompt], max_new_tokens=2, stop_at_eos=False)
                require_counts_match(ModelCounts(), counts, whole, run, crops_known=family.anatomy.crops_known)
                assert counts.patches and counts.image_tokens
        finally:
            model.vision_tokens = None


def test_encoder_and_connector_are_timed_apart(family: Family, prompts: list[Prompt]) -> None:
    stages = generate(family.model, prompts, max_new_tokens=2, clock=HostClock()).stages
    assert stages is not None and stages.connector_ms is not None
    assert stages.connector_ms > 0 and stages.vision_ms > 0
    modules = [module for connector in family.model._parts.connectors for module in connector.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_no_contraction_is_counted_as_no_operation(family: Family, prompts: list[Prompt]) -> None:
    assert uncounted(family.model, prompts[:1]) == set()


def test_features_do_not_depend_on_neighbours(family: Family, prompts: list[Prompt]) -> None:
    model = family.model
    alone = [len(model.see(model.transfer(model.encode([prompt])))) for prompt in prompts]
    assert alone == [encoding.vision_tokens for encoding in model.encode(prompts).encodings]


def test_answers_end_where_the_generation_configuration_says(family: Family, prompts: list[Prompt]) -> None:
    model = family.model
    assert model.eos_ids == {1}
    said = ours(model, prompts[:1])[0]
    before, model.eos_ids = model.eos_ids, frozenset({said[2]})
    try:
        (answer,) = generate(model, prompts[:1], max_new_tokens=NEW).generations
    finally:
        model.eos_ids = before
    assert answer.end == "eos"
    assert answer.tokens == said.index(said[2]) + 1


@pytest.mark.parametrize("size", [(90, 60), (64, 64), (33, 200), (200, 33), (31, 31), (640, 480), (97, 101), (1, 40)])
def test_what_is_planned_is_what_the_processor_makes(family: Family, size: tuple[int, int]) -> None:
    budget = family.model._budget
    assert budget is not None
    few = (budget.lowest, budget.values()[len(budget.values()) // 2], budget.trained)
    compared = [is_as_planned(family.model, ask("red", *size), value) for value in few]
    assert all(compared) or min(size) < SMALLEST_SIDE, "the processor refuses an ordinary picture"


SMALLEST_SIDE = 32
"""Below that some processors refuse a picture."""


def is_as_planned(model: LoadedVlm, prompt: Prompt, budget: int) -> bool:
    """Whether the processor takes the picture; what it makes of it must be what was planned, or this raises."""
    try:
        with model._processors.borrowed() as processor:
            made = model._process(processor, prompt, budget)
    except (ValueError, ZeroDivisionError):
        return False
    model._encoding(made, prompt, budget)
    return True


def test_a_count_that_the_processor_does_not_keep_is_a_mismatch(family: Family, prompts: list[Prompt]) -> None:
    model = family.model
    budget = model._budget_of(prompts[0], model._vision_limits())
    with model._processors.borrowed() as processor:
        made = model._process(processor, prompts[0], budget)
    made["input_ids"] = made["input_ids"][:, 6:]
    with pytest.raises(Mismatch, match="was planned as"):
        model._encoding(made, prompts[0], budget)
