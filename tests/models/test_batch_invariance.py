"""Padding a batch, reordering it, or changing neighbours never changes an answer in float32, for any batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.knob_contract import demo_prompts
from tests.contracts.model_contract import batches_hold
from tests.models._hf.families import EVERY, Family, ask
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.records import Prompt

TOKENS = 5
POOL = [
    ("red", 64, 64),
    ("what colour is the cat", 90, 60),
    ("is there a cat left of the dog are there many red tree of the dog is the cat red", 50, 110),
    ("how many", 120, 80),
    ("is there a cat", 33, 200),
]
"""Short and long, wide and high: any two of them pad each other."""


def answers(model: AbstractModel, prompts: list[Prompt]) -> list[str]:
    """Token ids, as text where the tokenizer leaves nothing out: equal answers are equal texts of equal length."""
    run = generate(model, prompts, max_new_tokens=TOKENS, stop_at_eos=False)
    return [f"{one.tokens} {one.text}" for one in run.generations]


@pytest.mark.parametrize("name", EVERY)
def test_a_family(family_named: Callable[[str], Family], name: str) -> None:
    model = family_named(name).model
    holds(model, [ask(*asked, seed=seed) for seed, asked in enumerate(POOL)])


def test_molmo() -> None:
    """The demo as it ships: it was trained, so that its answers hang on the prompts."""
    shipped = Checkpoint(path="", revision="", dtype="float32")
    model = registry.load("models", "demo").load(shipped, "cpu")
    holds(model, demo_prompts(registry.load("tasks", "shapes_qa"), len(POOL)))


def holds(model: AbstractModel, pool: list[Prompt]) -> None:
    alone = [answers(model, [prompt])[0] for prompt in pool]
    assert len(set(alone)) > 1, "the answers say nothing about the prompts"
    batches_hold(lambda batch: answers(model, batch), pool, alone)
