"""The work of one request: operations and bytes follow from what the configuration computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.jobs import small_job
from vlmprof import registry
from vlmprof.errors import OutOfMemory
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt
from vlmprof.trial import stage_work as work_of
from vlmprof.trial.resolve import resolve
from vlmprof.trial.samples import open_pictures, samples_of
from vlmprof.trial.stage_work import cache_bytes, compared_work, stage_work


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AbstractModel, list[Prompt]]:
    resolved = resolve(small_job(tmp_path_factory.mktemp("work"), tiny_checkpoint).plans[0])
    prompts = [sample.prompt for sample in open_pictures(samples_of(resolved)[:4]).readable]
    return resolved.family.load(resolved.checkpoint, "cpu"), prompts


def applied(model: AbstractModel, knob: str, value: Any) -> Any:
    return registry.load("knobs", knob).applied(model, value)


def test_half_of_the_blocks_is_half_of_prefill_and_decode_and_no_vision(loaded: Any) -> None:
    model, (prompt, *_) = loaded
    work = compared_work(model, lambda: applied(model, "active_blocks", {"keep": 4, "policy": "prefix"}), [prompt], {})
    assert work is not None
    assert work.own.vision_flop == work.full.vision_flop
    assert work.own.decode_bytes is not None and work.full.decode_bytes == 2 * work.own.decode_bytes
    assert 1.8 < work.full.prefill_flop / work.own.prefill_flop <= 2  # the output head stays


def test_fewer_experts_read_fewer_bytes_and_compute_less_of_the_prefill(loaded: Any) -> None:
    model, (prompt, *_) = loaded
    work = compared_work(model, lambda: applied(model, "moe_top_k", 1), [prompt], {})
    assert work is not None and work.own.decode_bytes is not None and work.full.decode_bytes is not None
    assert work.own.vision_flop == work.full.vision_flop
    assert work.own.prefill_flop < work.full.prefill_flop and work.own.decode_bytes < work.full.decode_bytes


def test_fewer_crops_shrink_the_cache_too(loaded: Any) -> None:
    model, (prompt, *_) = loaded
    work = compared_work(model, lambda: applied(model, "max_crops", 1), [prompt], {})
    assert work is not None and work.own.decode_bytes is not None and work.full.decode_bytes is not None
    assert work.own.vision_flop < work.full.vision_flop
    assert work.own.decode_bytes < work.full.decode_bytes, "the weights are the same, the cache is shorter"


def test_the_full_model_is_counted_once_for_all_configurations(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (prompt, other, *_) = loaded
    runs, known, real = list[str](), dict[Any, Any](), work_of.generate

    def counted(model: Any, request: Any, **more: Any) -> Any:
        runs.append(request[0].text)
        return real(model, request, **more)

    monkeypatch.setattr(work_of, "generate", counted)
    first, second = (compared_work(model, lambda k=k: applied(model, "moe_top_k", k), [prompt], known) for k in (1, 2))
    assert first is not None and second is not None
    assert first.full == second.full and first.own != second.own
    assert len(runs) == 3 and compared_work(model, lambda: applied(model, "moe_top_k", 1), [other], known) is not None
    assert len(runs) == 5, "another request is other work"


def test_what_a_batch_reads_of_experts_is_not_guessed(loaded: Any) -> None:
    model, prompts = loaded
    assert stage_work(model, prompts[:1]).decode_bytes is not None
    several = stage_work(model, prompts)
    assert several.decode_bytes is None
    assert several.prefill_flop > 2 * stage_work(model, prompts[:1]).prefill_flop


def test_a_full_model_that_does_not_fit_is_no_failure(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (prompt, *_) = loaded
    real, on = work_of.generate, []

    class Knobs:
        def __enter__(self) -> None:
            on.append(1)

        def __exit__(self, *_: object) -> None:
            on.pop()

    def only_with_knobs(*args: Any, **more: Any) -> Any:
        if not on:
            raise OutOfMemory(1, "no room")
        return real(*args, **more)

    monkeypatch.setattr(work_of, "generate", only_with_knobs)
    assert compared_work(model, Knobs, [prompt], {}) is None


def test_a_state_without_a_cache_is_an_error_and_not_zero_bytes() -> None:
    with pytest.raises(ValueError, match="no key-value cache"):
        cache_bytes(SimpleNamespace(cache=torch.zeros(3)))
