"""Engines on fixed memory: the step that a GPU records, run as it is on a CPU, says what eager and the library say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from vlmprof import registry
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.greedy import generate
from vlmprof.engine.kernels import DecodeKernels, experts_kernel
from vlmprof.engine.recording import GraphRecorder
from vlmprof.engine.static_cache import CacheArena
from vlmprof.engine.static_engine import MAX_RECORDINGS, StaticEngine, cache_length, engine_of
from vlmprof.errors import ModelError, OutOfMemory
from vlmprof.measure.clock import HostClock
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Prompt

NEW = 9


def texts(model: Any, prompts: list[Prompt], engine: Any = None, new: int = NEW) -> list[str]:
    chosen = {} if engine is None else {"engine": engine}
    run = generate(model, prompts, max_new_tokens=new, stop_at_eos=False, **chosen)
    return [generation.text for generation in run.generations]


def test_one_recording_serves_batch_after_batch(model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine) -> None:
    expected = texts(model, asked)
    for batch in (slice(0, 4), slice(4, 8), slice(2, 6)):
        assert texts(model, asked[batch], graphs) == expected[batch]
    assert len(graphs._recorded) == 1


def test_fewer_rows_borrow_a_recording_unless_they_are_timed(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    expected = [one.text for one in generate(model, asked, max_new_tokens=NEW).generations]
    for rows in (8, 5):
        run = generate(model, asked[:rows], max_new_tokens=NEW, engine=graphs)
        assert [one.text for one in run.generations] == expected[:rows]
    assert [batch for _, batch, _ in graphs._recorded] == [8]
    texts(model, asked[:5], graphs)
    assert [batch for _, batch, _ in graphs._recorded] == [8, 5]


def test_knobs_are_other_recordings_and_undone_ones_are_found_again(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    top_k, blocks = registry.load("knobs", "moe_top_k"), registry.load("knobs", "active_blocks")
    plain = texts(model, asked)
    assert texts(model, asked, graphs) == plain
    with top_k.applied(model, 1), blocks.applied(model, [1, 3, 4]):
        turned = texts(model, asked)
        assert texts(model, asked, graphs) == turned != plain
    assert len(graphs._recorded) == 2
    assert texts(model, asked, graphs) == plain
    assert len(graphs._recorded) == 2


def test_a_larger_batch_moves_the_memory_and_old_recordings_go(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine
) -> None:
    expected = texts(model, asked)
    texts(model, asked[:2], graphs)
    graphs._steps._pool = "of graphs that are gone"
    texts(model, asked[:8], graphs)
    assert graphs._steps._pool is None
    for rows in (2, 8, 2):
        assert texts(model, asked[:rows], graphs) == expected[:rows]
    assert [batch for _, batch, _ in graphs._recorded] == [8, 2]


def test_recordings_are_bounded(model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine) -> None:
    knob = registry.load("knobs", "active_blocks")
    for i in range(MAX_RECORDINGS + 2):
        with (
            knob.applied(model, [i % 8, 7] if i % 8 < 7 else [7]),
            registry.load("knobs", "moe_top_k").applied(model, 1 + i // 8),
        ):
            texts(model, asked[:1], graphs, new=2)
    assert len(graphs._recorded) == MAX_RECORDINGS


def test_ends_are_seen_and_nothing_after_them_counts(
    model: LoadedMolmo, asked: list[Prompt], graphs: StaticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = generate(model, asked, max_new_tokens=NEW, stop_at_eos=False)
    tokens = [generation.tokens for generation in said.generations]
    batch = model.encode(asked[:1])
    state = model.prefill(batch, model.see(batch), 4)
    for _ in range(2):
        state = model.step(state)
    monkeypatch.setattr(model, "eos_ids", frozenset({int(state.next_tokens[0])}))
    eager = generate(model, asked, max_new_tokens=NEW)
    assert generate(model, asked, max_new_tokens=NEW, engine=graphs).generations == eager.generations
    assert min(generation.tokens for generation in eager.generations) < min(tokens)
    alone = generate(model, asked[:1], max_new_tokens=50, engine=graphs, clock=HostClock())
    assert alone.stages is not None and alone.stages.decode_steps == alone.generations[0].tokens - 1 < 49


def test_one_compiled_block_serves_all_and_another_top_k_costs_one_more(
    model: LoadedMolmo, asked: list[Prompt]
) -> None:
    torch._dynamo.reset()
    counters.clear()
    engine = StaticEngine(
        "compiled", capture=False, compiler=BlockCompiler("eager"), kernels=DecodeKernels(attention=True, experts=True)
    )
    assert texts(model, asked, engine) == texts(model, asked)
    assert counters["stats"]["unique_graphs"] == 1
    with registry.load("knobs", "active_blocks").applied(model, [1, 3, 4]):
        assert texts(model, asked, engine) == texts(model, asked)
    assert counters["stats"]["unique_graphs"] == 1
    with registry.load("knobs", "moe_top_k").applied(model, 1):
        assert texts(model, asked, engine) == texts(model, asked)
    assert counters["stats"]["unique_graphs"] == 2
    assert all("forward" not in vars(block) for block in model.decoder.layers)
    assert [block.self_attn.layer_idx for block in model.decoder.layers] == list(range(8))


def test_the_prompt_needs_no_second_cache() -> None:
    arena = CacheArena()
    like = torch.zeros(1)
    larger = arena.tensor(0, "keys", (2, 3, 4, 5), like)
    smaller = arena.tensor(0, "keys", (1, 3, 4, 5), like)
    assert larger.data_ptr() == smaller.data_ptr() and arena.reallocations == 0
    arena.tensor(0, "keys", (4, 3, 4, 5), like)
    assert arena.reallocations == 1


@pytest.mark.parametrize(
    ("tokens", "top_k", "kernel"),
    [(1, 8, "gathered"), (4, 8, "gathered"), (16, 8, "dense"), (64, 8, "dense"), (64, 1, "dense"), (32, 2, "dense")],
)
def test_few_pairs_are_gathered_and_many_need_every_expert(tokens: int, top_k: int, kernel: str) -> None:
    assert experts_kernel(tokens, top_k, 64, torch.bfloat16) == kernel


def test_what_waits_for_the_host_is_never_recorded() -> None:
    assert experts_kernel(256, 8, 64, torch.bfloat16) == "grouped_mm"
    for tokens in (1, 40, 300, 5000):
        assert experts_kernel(tokens, 1, 64, torch.float32) != "grouped_mm"


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 1000, 1056, 5000])
def test_cache_lengths_are_few_and_little_is_wasted(tokens: int) -> None:
    assert tokens <= cache_length(tokens) < tokens + max(64, tokens / 7)
    assert cache_length(tokens) % 64 == 0


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 1000, 1024, 1025, 5000])
def test_cache_lengths_that_are_not_timed_are_powers_of_two(tokens: int) -> None:
    length = cache_length(tokens, exact=False)
    assert tokens <= length <= max(256, 2 * (tokens - 1)) and length.bit_count() == 1


def test_an_engine_that_cannot_be_is_refused() -> None:
    assert engine_of("eager", "cpu").describe() == {"engine": "eager"}
    with pytest.raises(ModelError, match="this trial runs on a CPU; use engine: eager"):
        engine_of("graphs", "cpu")
    with pytest.raises(ModelError, match="sliding"):
        engine_of("compiled", "cuda", only_eager="its blocks have sliding windows")


ARIA = "Cannot copy between CPU and CUDA tensors during CUDA graph capture"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(f"{ARIA} unless the CPU tensor is pinned.\nmore"), f"RuntimeError: {ARIA}"),
        (torch._dynamo.exc.Unsupported("data-dependent branching"), "Unsupported: data-dependent"),
        (ModelError("the decode step takes 'x' of shape (3,)"), "ModelError: the decode step takes"),
    ],
)
@pytest.mark.parametrize("name", ["graphs", "compiled"])
def test_a_step_that_cannot_be_captured_runs_eager_for_the_whole_load(
    model: LoadedMolmo, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, name: str
) -> None:
    captures = []

    def refuse(self: GraphRecorder, work: Any, warm_up: Any) -> Any:
        captures.append(work)
        try:
            raise error
        finally:  # as leaving torch's capture does after a failure
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(GraphRecorder, "record_stages", refuse)
    engine = StaticEngine(name, kernels=DecodeKernels(attention=False, experts=False))
    assert engine.describe()["engine"] == name and "engine_fallback" not in engine.describe()
    assert texts(model, asked, engine) == texts(model, asked)
    assert texts(model, asked[:2], engine, new=3) == texts(model, asked[:2], new=3)
    assert len(captures) == 3, "vision, prefill and step are each tried once"
    described = engine.describe()
    assert described["engine"] == "eager" and described["engine_fallback"].startswith(f"{name}: {said}")
    assert not engine._recorded


def test_memory_that_ends_while_capturing_is_no_reason_to_run_eager(
    model: LoadedMolmo, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: GraphRecorder, work: Any, warm_up: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GraphRecorder, "record", full)
    engine = StaticEngine("graphs", kernels=DecodeKernels(attention=False, experts=False))
    with pytest.raises(OutOfMemory):
        texts(model, asked, engine)
    assert "engine_fallback" not in engine.describe()
