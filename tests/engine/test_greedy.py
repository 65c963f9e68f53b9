import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.decoding import Mark
from vlmprof.engine.greedy import generate
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.measure.clock import HostClock
from vlmprof.models.molmo.runtime import LoadedMolmo, MolmoBatch
from vlmprof.records import Prompt


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"), 8)


@pytest.fixture
def ends_early(model: LoadedMolmo, prompts: list[Prompt]) -> Iterator[None]:
    """A token that the random model really says, declared its end of sequence."""
    said = _tokens(model, prompts[:1], 4)[0]
    before = model.eos_ids
    model.eos_ids = frozenset({said[2]})
    yield
    model.eos_ids = before


def _tokens(model: LoadedMolmo, prompts: list[Prompt], count: int) -> list[list[int]]:
    batch = model.transfer(model.encode(prompts))
    state = model.prefill(batch, model.see(batch), count)
    steps = [state.next_tokens.tolist()]
    for _ in range(count - 1):
        state = model.step(state)
        steps.append(state.next_tokens.tolist())
    return [list(row) for row in zip(*steps, strict=True)]


def test_it_says_what_the_library_s_own_generate_says(model: LoadedMolmo, prompts: list[Prompt]) -> None:
    batch = model.encode(prompts)
    inputs = {name: value for name, value in batch.inputs.items() if not name.startswith("image_t") or "pool" in name}
    inputs.pop("image_num_crops", None)
    with torch.inference_mode():
        whole = model._model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=-1, pad_token_id=0)
    reference = whole[:, batch.inputs["input_ids"].shape[1] :].tolist()
    assert _tokens(model, prompts, 9) == reference


def test_exact_length_ignores_the_end_and_keeps_the_tokens_before_it(
    model: LoadedMolmo, prompts: list[Prompt], ends_early: None
) -> None:
    stopped = generate(model, prompts[:1], max_new_tokens=8).generations[0]
    exact = generate(model, prompts[:1], max_new_tokens=8, stop_at_eos=False).generations[0]
    assert (stopped.end, exact.end) == ("eos", "cap")
    assert stopped.tokens < exact.tokens == 8
    assert exact.text.replace(" ", "").startswith(stopped.text.replace(" ", ""))


def test_a_smaller_cap_gives_a_prefix(model: LoadedMolmo, prompts: list[Prompt]) -> None:
    longest = _tokens(model, prompts, 8)
    for cap in (1, 2, 5):
        assert _tokens(model, prompts, cap) == [row[:cap] for row in longest]
        assert {g.tokens for g in generate(model, prompts, max_new_tokens=cap, stop_at_eos=False).generations} == {cap}


def test_a_batch_stops_when_its_last_row_has_ended(model: LoadedMolmo, prompts: list[Prompt], ends_early: None) -> None:
    run = generate(model, prompts[:1], max_new_tokens=50, clock=HostClock())
    assert run.stages is not None
    assert run.stages.decode_steps == run.generations[0].tokens - 1 < 49


def test_batch_size_order_and_neighbours_do_not_change_an_answer(model: LoadedMolmo, prompts: list[Prompt]) -> None:
    alone = [generate(model, [prompt], max_new_tokens=8).generations[0].text for prompt in prompts]
    together = generate(model, prompts, max_new_tokens=8).generations
    backwards = generate(model, prompts[::-1], max_new_tokens=8).generations
    assert [g.text for g in together] == alone
    assert [g.text for g in backwards] == alone[::-1]


def test_the_stages_of_one_run_add_up_to_end_to_end(model: LoadedMolmo, prompts: list[Prompt]) -> None:
    clock = HostClock()
    stages = [generate(model, prompts, max_new_tokens=6, stop_at_eos=False, clock=clock).stages for _ in range(5)]
    gaps = [abs(s.stage_sum_ms - s.end_to_end_ms) / s.end_to_end_ms for s in stages]
    assert min(gaps) < 0.02
    assert all(s.vision_ms > 0 and s.prefill_ms > 0 and s.decode_ms > 0 and s.decode_steps == 5 for s in stages)


def test_features_without_a_place_are_no_answer(
    model: LoadedMolmo, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LoadedMolmo.encode

    def one_token_short(self: LoadedMolmo, asked: list[Prompt]) -> MolmoBatch:
        batch = encode(self, asked)
        first = replace(batch.encodings[0], vision_tokens=batch.encodings[0].vision_tokens - 1)
        return replace(batch, encodings=(first, *batch.encodings[1:]))

    monkeypatch.setattr(LoadedMolmo, "encode", one_token_short)
    with pytest.raises(Mismatch, match="features for"):
        generate(model, prompts[:2], max_new_tokens=2)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_told_once_the_batch_is_freed(
    model: LoadedMolmo, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def refuse(self: LoadedMolmo, batch: MolmoBatch, mark: Mark) -> torch.Tensor:
        on_the_device = torch.zeros(8)
        held.append(weakref.ref(on_the_device))
        raise type(error)(*error.args)

    monkeypatch.setattr(LoadedMolmo, "see", refuse)
    with pytest.raises(OutOfMemory) as caught:
        generate(model, prompts[:3], max_new_tokens=2)
    assert caught.value.batch_size == 3
    assert held[0]() is None, "the failed frame lives on, and so does its memory"


def test_another_runtime_error_is_not_out_of_memory(
    model: LoadedMolmo, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LoadedMolmo, batch: MolmoBatch, mark: Mark) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(LoadedMolmo, "see", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        generate(model, prompts[:1], max_new_tokens=2)
