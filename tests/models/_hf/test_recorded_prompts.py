"""Recorded prompts of every family, run as they are on a CPU, and the mistakes that a recording can make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.stale import stale
from tests.models._hf.families import Family, ask
from vlmprof.decoding import Mark
from vlmprof.engine import recording
from vlmprof.engine.base import EAGER
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.greedy import generate
from vlmprof.engine.recorded_check import recorded_distance
from vlmprof.engine.recording import RecordedCall
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import Mismatch
from vlmprof.measure.clock import HostClock
from vlmprof.models._hf.runtime import LoadedVlm
from vlmprof.records import Prompt

NEW = 5
ALL_PARTS = "vision, connector, prefill, decode"


def timed(model: LoadedVlm, prompts: list[Prompt], engine: Any) -> list[tuple[int, ...]]:
    run = generate(model, prompts, max_new_tokens=NEW, stop_at_eos=False, engine=engine, clock=HostClock())
    assert run.stages is not None and run.stages.connector_ms
    return [generation.ids for generation in run.generations]


def logits(model: LoadedVlm, prompts: list[Prompt], engine: StaticEngine) -> tuple[Tensor, Tensor]:
    """Those after the prompt, recorded and of the model's own prefill."""
    batch = model.encode(prompts)
    recorded = engine.recorded_logits(model, batch, NEW)
    assert recorded is not None
    return recorded[0], model.prefill(batch, model.see(batch), NEW).logits


@pytest.fixture
def graphs() -> StaticEngine:
    return StaticEngine("graphs", capture=False)


def like(prompt: Prompt, seed: int) -> Prompt:
    """The same question about another picture of the same size."""
    return ask(prompt.text, prompt.picture.width, prompt.picture.height, seed)


def test_every_batch_gets_the_tokens_and_logits_of_eager(
    family: Family, prompts: list[Prompt], graphs: StaticEngine
) -> None:
    """Alone and padded, recorded and replayed, and about other pictures than the one that was recorded."""
    batches = [prompts[:1], prompts[1:2], [like(prompts[0], 7)], prompts, prompts[:2], [like(p, 8) for p in prompts]]
    for batch in batches * 2:
        assert timed(family.model, batch, graphs) == timed(family.model, batch, EAGER)
        recorded, own = logits(family.model, batch, graphs)
        assert torch.equal(recorded, own)
    described = graphs.describe()
    assert described["recorded_stages"] == ALL_PARTS, described.get("prompt_fallback")
    assert "prompt_fallback" not in described


def test_another_picture_of_the_same_size_is_replayed(
    family: Family, prompts: list[Prompt], graphs: StaticEngine
) -> None:
    for seed in range(3):
        timed(family.model, [like(prompts[0], seed)], graphs)
    assert (len(graphs._prompts._visions), len(graphs._prompts._prefills)) == (1, 1)
    timed(family.model, [replace(prompts[0], text="red red")], graphs)
    assert (len(graphs._prompts._visions), len(graphs._prompts._prefills)) == (1, 2)


@pytest.mark.parametrize("name", ["pixel_values", "features 0"])
def test_a_stale_buffer_is_caught(
    family: Family, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    alike = [[prompts[0]], [like(prompts[0], 9)]]
    assert recorded_distance(StaticEngine("graphs", capture=False), family.model, alike, NEW) is not None
    monkeypatch.setattr(RecordedCall, "_load", stale(name))
    with pytest.raises(Mismatch, match=r"the prompt of timed request 1 gives logits that are .* away"):
        recorded_distance(StaticEngine("graphs", capture=False), family.model, alike, NEW)


def test_a_recording_of_another_prompt_is_caught(
    family: Family, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that does nothing leaves the output of the prompt before."""

    def never_again(work: Callable[[Mark], Any]) -> Callable[[Mark], Any]:
        first: list[Any] = []

        def again(mark: Mark) -> Any:
            if not first:
                first.append(work(mark))
            return first[0]

        return again

    monkeypatch.setattr(recording, "_without_graph", never_again)
    with pytest.raises(Mismatch, match="the prompt of timed request 1"):
        recorded_distance(
            StaticEngine("graphs", capture=False), family.model, [[prompts[0]], [like(prompts[0], 9)]], NEW
        )


def test_blocks_are_compiled_outside_of_what_notes_reads(family: Family, prompts: list[Prompt]) -> None:
    torch._dynamo.reset()
    compiled = StaticEngine("compiled", capture=False, prompt_compiler=BlockCompiler("eager", dynamic=True))
    for batch in (prompts[:1], prompts):
        assert timed(family.model, batch, compiled) == timed(family.model, batch, EAGER)
    described = compiled.describe()
    if family.recipe.name == "ernie4_5_vl_moe":  # its blocks branch on where image tokens are
        assert described["prompt_fallback"].startswith("prefill: Unsupported: Data-dependent branching")
    else:
        assert described["recorded_stages"] == ALL_PARTS and "prompt_fallback" not in described
