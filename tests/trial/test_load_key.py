"""Knobs that say how a model is loaded: groups of trials, one load each, and what was really loaded."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from tests.jobs import job_file, small_job
from vlmprof import registry
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import SpecError
from vlmprof.models.family import Checkpoint
from vlmprof.store.collector import TrialResult
from vlmprof.trial.executor import Executor
from vlmprof.trial.load_key import load_arguments, load_key
from vlmprof.trial.resolve import prepare, resolve

LOADED: dict[str, list[Any]] = {"moe_top_k": [1, 4], "dtype": ["float32", "bfloat16"], "attention": ["sdpa", "eager"]}
SCORED: dict[str, Any] = {"measure": ["accuracy"], "tasks": [{"name": "shapes_qa", "samples": 4, "seed": 3}]}


def run(folder: Path, checkpoint: Path, loads: list[Checkpoint] | None = None, **knobs: Any) -> list[TrialResult]:
    """The trials of a small job, one after another on one executor; ``loads`` collects what was loaded."""
    family, seen = registry.load("models", "demo"), [] if loads is None else loads
    executor, before = Executor(BatchSizer(), gpus=0, name="test"), type(family).load

    def counting(self: Any, wanted: Checkpoint, device: str) -> Any:
        seen.append(wanted)
        return before(self, wanted, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(family), "load", counting)
        plans = small_job(folder, checkpoint, knobs=knobs, **SCORED).plans
        return [executor.run(plan, lambda progress: None) for plan in plans]


def test_trials_of_one_load_stand_together_and_are_one_tuner_s(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plans = small_job(tmp_path, tiny_checkpoint, knobs=LOADED).plans
    assert [load_arguments(plan) for plan in plans[::2]] == [
        {"dtype": dtype, "attention": attention} for dtype in LOADED["dtype"] for attention in LOADED["attention"]
    ]
    assert [len(list(group)) for _, group in groupby(plans, key=load_key)] == [2, 2, 2, 2]


def test_a_job_without_such_knobs_keeps_its_order_and_its_ids(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tasks = [{"name": "shapes_qa", "samples": count} for count in (2, 3)]
    plans = small_job(tmp_path, tiny_checkpoint, tasks=tasks).plans
    assert [plan.task.samples for plan in plans] == [2] * 4 + [3] * 4
    assert len({load_key(plan) for plan in plans}) == 1


def test_a_loaded_model_serves_all_trials_of_its_group(tmp_path: Path, tiny_checkpoint: Path) -> None:
    loads: list[Checkpoint] = []
    results = run(tmp_path, tiny_checkpoint, loads, moe_top_k=[1, 4], dtype=["float32", "bfloat16"])
    assert [checkpoint.dtype for checkpoint in loads] == ["float32", "bfloat16"]
    assert [result.row["dtype"] for result in results] == ["float32", "float32", "bfloat16", "bfloat16"]
    assert [result.row["effect_dtype"] for result in results] == ["no-op", "no-op", "effective", "effective"]
    assert len({result.row["work_key"] for result in results}) == 4


def test_rows_say_what_was_loaded(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (row,) = [one.row for one in run(tmp_path, tiny_checkpoint, attention=["eager"], experts_kernel=["batched_mm"])]
    assert (row["dtype"], row["attention"], row["experts_kernel"]) == ("float32", "eager", "batched_mm")
    assert (row["requested_attention"], row["effect_experts_kernel"]) == ("eager", "effective")


@pytest.mark.parametrize(
    ("knob", "value"), [("dtype", "bfloat16"), ("attention", "eager"), ("experts_kernel", "eager")]
)
def test_an_argument_that_loading_ignores_fails_the_trial(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, knob: str, value: str
) -> None:
    family = registry.load("models", "demo")
    plain = Checkpoint(path=str(tiny_checkpoint), revision="", dtype="float32")
    load = type(family).load
    monkeypatch.setattr(type(family), "load", lambda self, checkpoint, device: load(self, plain, device))
    (result,) = run(tmp_path, tiny_checkpoint, **{knob: [value]})
    assert result.state == "failed"
    assert str(result.row["error"]).startswith(f"Mismatch: {knob}: what ran is not what was set")


def test_a_failed_trial_says_which_precision_it_was_to_have(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = tmp_path / "copy"
    checkpoint.mkdir()
    for file in tiny_checkpoint.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    (plan,) = small_job(tmp_path, checkpoint, knobs={"dtype": ["bfloat16"]}).plans
    (checkpoint / "model.safetensors").write_bytes(b"nothing")
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert (result.state, result.row["dtype"]) == ("failed", "bfloat16")


@pytest.mark.parametrize("kernel", ["grouped_mm", "eager", "batched_mm"])
def test_the_kernel_that_is_named_is_the_one_that_runs_in_every_step(tiny_checkpoint: Path, kernel: str) -> None:
    """Seen where the library looks its kernels up, in prefill and in decode."""
    from tests.contracts.knob_contract import demo_prompts
    from vlmprof.engine.greedy import generate

    checkpoint = Checkpoint(path=str(tiny_checkpoint), revision="", dtype="float32", experts_kernel=kernel)
    model = registry.load("models", "demo").load(checkpoint, "cpu")
    seen: list[str] = []
    found = type(ALL_EXPERTS_FUNCTIONS).get_interface

    def noting(self: Any, name: str, default: Any) -> Any:
        seen.append(name)
        return found(self, name, default)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ALL_EXPERTS_FUNCTIONS), "get_interface", noting)
        generate(model, demo_prompts(registry.load("tasks", "shapes_qa"), 1), max_new_tokens=3, stop_at_eos=False)
    assert seen == [kernel] * 3 * len(model.routers)


def test_one_tensor_of_another_type_is_no_uniform_precision(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint(path=str(tiny_checkpoint), revision="", dtype="float32")
    model = registry.load("models", "demo").load(checkpoint, "cpu")
    model.decoder.layers[1].self_attn.q_proj.to(torch.bfloat16)
    assert model.kernels["dtype"] == "bfloat16+float32"


def faults(tmp_path: Path, checkpoint: Path, **sections: Any) -> str:
    with pytest.raises(SpecError) as caught:
        prepare(job_file(tmp_path, checkpoint, **sections))
    return str(caught.value)


def test_unknown_values_are_faults_at_check_with_the_nearest_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    knobs = {"dtype": ["bfloat61"], "attention": ["flex_attention", "sdpaa"], "experts_kernel": ["grouped_m"]}
    said = faults(tmp_path, tiny_checkpoint, knobs=knobs)
    assert "expected one of float32, bfloat16, float16 for MolmoE; got 'bfloat61'; did you mean 'bfloat16'?" in said
    assert "attention: expected one of sdpa, eager, flash_attention_2 for MolmoE; got 'flex_attention'" in said
    assert "got 'sdpaa'; did you mean 'sdpa'?" in said
    assert "did you mean 'grouped_mm'?" in said


def test_a_dense_model_has_no_kernel_of_experts(tmp_path: Path) -> None:
    model = {"family": "molmo", "checkpoint": "allenai/Molmo-7B-D-0924"}
    said = faults(tmp_path, tmp_path, models=[model], knobs={"experts_kernel": ["eager"]})
    assert "experts_kernel: Molmo (Qwen2) is dense, it has no experts to compute" in said


def test_a_precision_that_is_said_twice_is_a_fault(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = {"family": "demo", "checkpoint": str(tiny_checkpoint), "dtype": "bfloat16"}
    said = faults(tmp_path, tiny_checkpoint, models=[model], knobs={"dtype": ["float32"]})
    assert "'dtype' is set here and swept by the knob dtype; leave one of them out" in said


def test_an_attention_kernel_without_its_package_is_an_error_that_names_it(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprof.models._implementations.find_spec", lambda name: None)
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"attention": ["flash_attention_2"]}).plans
    assert resolve(plan).checkpoint.attention == "flash_attention_2"
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert result.state == "failed"
    assert "needs the package flash_attn" in str(result.row["error"])
