"""Recorded prompts, run as they are on a CPU, say what the model's own prefill says, and stale buffers are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers.cache_utils import Cache, DynamicLayer

from tests.engine.stale import stale
from vlmprof import registry
from vlmprof.decoding import Mark, unmarked
from vlmprof.engine import static_prompt, static_step
from vlmprof.engine.base import EAGER
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.greedy import generate
from vlmprof.engine.recorded_check import recorded_distance
from vlmprof.engine.recording import GraphRecorder, RecordedCall
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.engine.static_prompt import PromptRecorder
from vlmprof.errors import Mismatch
from vlmprof.measure.clock import HostClock
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Prompt

NEW = 5
ALL_PARTS = "vision, connector, prefill, decode"


def timed(model: Any, prompts: list[Prompt], engine: Any) -> list[tuple[int, ...]]:
    run = generate(model, prompts, max_new_tokens=NEW, stop_at_eos=False, engine=engine, clock=HostClock())
    assert run.stages is not None
    assert abs(run.stages.stage_sum_ms - run.stages.end_to_end_ms) <= max(0.2, 0.02 * run.stages.end_to_end_ms)
    return [generation.ids for generation in run.generations]


def test_every_batch_gets_the_tokens_of_eager(model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine) -> None:
    """Alone and in batches with padding, first recorded and then replayed, for the pictures of other prompts."""
    assert len({len(prompt.text) for prompt in asked}) > 1, "no batch would be padded"
    batches = [[prompt] for prompt in asked] + [asked[:3], asked[5:8], asked]
    for batch in batches * 2:
        assert timed(model, batch, graphs) == timed(model, batch, EAGER)
    assert graphs.describe()["recorded_stages"] == ALL_PARTS and "prompt_fallback" not in graphs.describe()


def test_logits_are_those_of_the_models_own_prefill(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    for batch in ([asked[0]], asked[:4]):
        inputs = model.encode(batch)
        own = model.prefill(inputs, model.see(inputs), NEW)
        recorded = graphs.recorded_logits(model, inputs, NEW)
        assert recorded is not None and recorded[1] is not None
        torch.testing.assert_close(recorded[0], own.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(recorded[1], model.step(own).logits, rtol=1e-5, atol=1e-5)


def test_knobs_of_the_language_model_record_prefills_and_no_vision(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    recorder = graphs._prompts
    timed(model, asked[:1], graphs)
    visions, prefills = len(recorder._visions), len(recorder._prefills)
    with (
        registry.load("knobs", "moe_top_k").applied(model, 1),
        registry.load("knobs", "active_blocks").applied(model, [0, 2, 5]),
    ):
        assert timed(model, asked[:1], graphs) == timed(model, asked[:1], EAGER)
    assert (len(recorder._visions), len(recorder._prefills)) == (visions, prefills + 1)
    assert timed(model, asked[:1], graphs) == timed(model, asked[:1], EAGER)
    assert len(recorder._prefills) == prefills + 1
    with registry.load("knobs", "max_crops").applied(model, 1):
        assert timed(model, asked[:1], graphs) == timed(model, asked[:1], EAGER)
    assert len(recorder._visions) == visions + 1


def test_memory_that_moves_takes_its_recordings_with_it(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    for rows in (1, 4, 8, 1, 4):
        assert timed(model, asked[:rows], graphs) == timed(model, asked[:rows], EAGER)
    graphs.forget()
    assert "recorded_stages" not in graphs.describe()
    assert timed(model, asked[:4], graphs) == timed(model, asked[:4], EAGER)


def test_between_passes_only_some_vision_recordings_are_kept(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = graphs._prompts
    for batch in (asked[1:4], asked[:1]):
        timed(model, batch, graphs)
    large, small = recorder._visions.values()
    assert 0 < small.nbytes < large.nbytes and len(recorder._prefills) == 2
    graphs.end_timing()
    assert [*recorder._visions.values()] == [large, small] and not recorder._prefills
    assert graphs.describe()["recorded_stages"] == ALL_PARTS, "what was timed was recorded"
    monkeypatch.setattr(static_prompt, "MAX_BYTES", small.nbytes)
    graphs.end_timing()
    assert [*recorder._visions.values()] == [small]
    assert timed(model, asked[1:4], graphs) == timed(model, asked[1:4], EAGER)


def test_a_scored_batch_is_not_recorded(model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine) -> None:
    generate(model, asked[:4], max_new_tokens=NEW, engine=graphs)
    assert graphs.describe()["recorded_stages"] == "decode"


def test_one_compiled_block_serves_prompts_of_all_lengths(model: LoadedMolmo, asked: list[Prompt]) -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = StaticEngine("compiled", capture=False, prompt_compiler=BlockCompiler("eager", dynamic=True))
    for batch in ([asked[0]], asked[1:3], asked[3:8]):
        assert timed(model, batch, compiled) == timed(model, batch, EAGER)
    first = counters["stats"]["unique_graphs"]
    assert first > 0
    with registry.load("knobs", "active_blocks").applied(model, [1, 3, 4]):
        assert timed(model, asked[:2], compiled) == timed(model, asked[:2], EAGER)
    assert counters["stats"]["unique_graphs"] == first, "other blocks were compiled again"
    assert all("forward" not in vars(block) for block in (*model.decoder.layers, *model.vision_blocks))
    assert "prompt_fallback" not in compiled.describe(), compiled.describe()["prompt_fallback"]
    assert compiled.describe()["recorded_stages"] == ALL_PARTS


@pytest.mark.parametrize("part", ["vision", "prefill"])
def test_what_cannot_be_recorded_runs_eager_and_says_so(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    tried = []

    def refuse(self: PromptRecorder, *args: Any) -> Any:
        tried.append(part)
        raise RuntimeError("a copy that no graph can hold\nmore")

    monkeypatch.setattr(PromptRecorder, {"vision": "_encode", "prefill": "_record_prefill"}[part], refuse)
    for _ in range(2):
        assert timed(model, asked[:2], graphs) == timed(model, asked[:2], EAGER)
    assert tried == [part], "it is tried once"
    assert graphs.describe()["prompt_fallback"] == f"{part}: RuntimeError: a copy that no graph can hold"
    graphs.begin_timing()
    assert part in graphs.describe()["prompt_fallback"], "what no graph can hold is not tried again"
    assert graphs.describe()["engine"] == "graphs"


def test_a_device_without_memory_for_recordings_runs_eager_and_says_so(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PromptRecorder, *args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PromptRecorder, "_encode", full)
    assert timed(model, asked[:2], graphs) == timed(model, asked[:2], EAGER)
    assert "no memory left for recordings" in graphs.describe()["prompt_fallback"]
    monkeypatch.undo()  # another batch size may leave the memory
    graphs.begin_timing()
    assert timed(model, asked[:2], graphs) == timed(model, asked[:2], EAGER)
    assert "prompt_fallback" not in graphs.describe() and "vision" in graphs.describe()["recorded_stages"]


@pytest.fixture
def alike(model: LoadedMolmo, asked: list[Prompt]) -> Iterator[list[list[Prompt]]]:
    """Two requests of the same shapes with other pictures."""
    with registry.load("knobs", "max_crops").applied(model, 1):
        yield [[asked[0]], [replace(asked[0], picture=asked[3].picture)]]


@pytest.mark.parametrize("name", ["pixel_values", "features", "ids"])
def test_a_stale_buffer_is_caught(
    model: LoadedMolmo,
    alike: list[list[Prompt]],
    graphs: StaticEngine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    if name == "ids":
        alike[1] = [replace(alike[0][0], text=alike[0][0].text.replace("small", "large"))]
        assert alike[1] != alike[0]
    assert recorded_distance(graphs, model, alike * 2, NEW) is not None
    monkeypatch.setattr(RecordedCall, "_load", stale(name))
    fresh = StaticEngine("graphs", capture=False)
    with pytest.raises(Mismatch, match=r"the prompt of timed request 1 gives logits that are .* away"):
        recorded_distance(fresh, model, alike, NEW)


def test_a_recording_of_another_prompt_is_caught(
    model: LoadedMolmo, alike: list[list[Prompt]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that does nothing leaves the output of the prompt before."""

    def record(self: GraphRecorder, work: Callable[[Mark], Any], warm_up: Any) -> Callable[[Mark], Any]:
        result = work(unmarked)
        return lambda _: result

    monkeypatch.setattr(GraphRecorder, "record_stages", record)
    with pytest.raises(Mismatch, match="timed request"):
        recorded_distance(StaticEngine("graphs", capture=False), model, alike, NEW)


def test_a_block_that_writes_to_the_cache_of_another_is_caught(
    model: LoadedMolmo, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = BlockCompiler("eager")
    with compiler.applied(model.decoder, Cache(layers=[DynamicLayer()] * 8)):
        with (
            pytest.raises(RuntimeError, match="compiled one already"),
            compiler.applied(model.decoder, Cache(layers=[])),
        ):
            pass
        assert "forward" in vars(model.decoder.layers[0])
    whole = static_step.static_cache

    def one_for_all(filled: Cache, cursor: Tensor) -> Cache:
        cache = whole(filled, cursor)
        return Cache(layers=[cache.layers[0]] * len(cache.layers))

    monkeypatch.setattr(static_step, "static_cache", one_for_all)
    with pytest.raises(Mismatch, match="the first decode step of timed request 0"):
        recorded_distance(StaticEngine("graphs", capture=False), model, [asked[:1]], NEW)


def test_nothing_is_compared_where_nothing_is_recorded(model: LoadedMolmo, asked: list[Prompt]) -> None:
    assert recorded_distance(EAGER, model, [asked[:1]], NEW) is None
