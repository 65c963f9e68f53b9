from pathlib import Path

import pytest

from tests.contracts.knob_contract import demo_checkpoint, demo_prompts
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.measure.observe import Whole, counted
from vlmprof.models.family import AbstractModel


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> AbstractModel:
    loaded: AbstractModel = registry.load("models", "demo").load(demo_checkpoint(tiny_checkpoint), "cpu")
    return loaded


def test_it_counts_what_ran_and_not_what_was_set(model: AbstractModel) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 2)
    with counted(Whole.of(model)) as whole:
        generate(model, prompts, max_new_tokens=2)
    assert whole.blocks_executed == tuple(range(8))
    assert whole.experts_per_token == 4
    model.decoder.config.num_experts_per_tok = 1  # what the predecessor edited, and what changes nothing
    whole_stack = Whole.of(model)
    with registry.load("knobs", "active_blocks").applied(model, [1, 6]), counted(whole_stack) as edited:
        generate(model, prompts, max_new_tokens=2)
    model.decoder.config.num_experts_per_tok = 4
    assert edited.blocks_executed == (1, 6)
    assert edited.experts_per_token == 4


def test_it_leaves_no_hook_behind(model: AbstractModel) -> None:
    with pytest.raises(ZeroDivisionError), counted(Whole.of(model)):
        raise ZeroDivisionError
    assert all(not block._forward_hooks for block in model.decoder.layers)
    assert all(not router._forward_hooks for router in model.routers)  # type: ignore[attr-defined]
