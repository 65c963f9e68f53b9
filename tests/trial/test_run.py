"""One trial in this process: what it scores, times, counts and leaves behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.knob_contract import fingerprint
from tests.jobs import QUICK, small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine import greedy
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.measure import disturbance
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Picture, Run
from vlmprof.store.collector import TrialResult
from vlmprof.tasks.task import Task
from vlmprof.trial import run as trial_run
from vlmprof.trial import timing_pass as trial_timing
from vlmprof.trial.columns.row import finished
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial, predicted_vision_tokens, resolve
from vlmprof.trial.run import run_trial


def ignore(progress: Progress) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> AbstractModel:
    resolved = resolve(small_job(tmp_path_factory.mktemp("load"), tiny_checkpoint).plans[0])
    return resolved.family.load(resolved.checkpoint, "cpu")


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else this machine does is no matter of these tests; ``test_timing`` is about it."""
    monkeypatch.setattr(disturbance, "causes", lambda *_: "")


def run(plan: TrialPlan, model: AbstractModel, resolved: ResolvedTrial | None = None) -> TrialResult:
    outcome = run_trial(resolved or resolve(plan), LoadedModel(model), BatchSizer(), ignore)
    return finished(outcome, model, {})


def test_every_sample_is_scored_once_and_every_repeat_timed(plan_of: Any, loaded: AbstractModel) -> None:
    result = run(plan_of(timing={**QUICK, "requests": 2, "output_tokens": 3}), loaded)
    assert result.state == "done"
    assert len({sample["sample"] for sample in result.samples}) == len(result.samples) == 12
    timed = [t for t in result.timings if not t["canary"]]
    assert [(t["repeat"], t["request"]) for t in timed] == [(r, q) for r in range(6) for q in range(2)]
    assert {t["output_tokens"] for t in timed} == {3} and {len(t["step_ms"]) for t in timed} == {2}
    assert [t["block"] for t in result.timings if t["canary"]] == [0, 1]
    row = result.row
    assert row["latency_ms_p50_low"] <= row["latency_ms_p50"] <= row["latency_ms_p50_high"]  # type: ignore[operator]
    assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]  # type: ignore[operator]
    assert row["stage_sum_error"] <= 0.02  # type: ignore[operator]
    assert row["vlmprof"] and row["torch"] and row["model_fingerprint"] and row["experts_kernel"] == "grouped_mm"


def test_the_model_leaves_as_it_came_also_on_error(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(loaded)
    plan = plan_of(knobs={"active_blocks": [[0, 2]], "moe_top_k": [2], "max_crops": [2], "output_tokens": [2]})
    run(plan, loaded)
    assert fingerprint(loaded) == before

    def fail(*args: Any, **kwargs: Any) -> Run:
        raise ValueError("mid-trial")

    monkeypatch.setattr(trial_run.ScorePass, "run", fail)
    with pytest.raises(ValueError, match="mid-trial"):
        run(plan, loaded)
    assert fingerprint(loaded) == before


def test_timing_takes_the_job_s_batch_and_length_not_the_sizer_s(plan_of: Any, loaded: AbstractModel) -> None:
    timing = {**QUICK, "requests": 2, "output_tokens": 3, "batch_size": 2}
    result = run(plan_of(batch={"size": "auto", "max": 5}, timing=timing), loaded)
    assert {t["batch_size"] for t in result.timings} == {2}
    assert max(s["batch_size"] for s in result.samples) == 5  # type: ignore[type-var]


def test_nothing_is_timed_with_a_hook_on_the_model(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, hooks = greedy.generate, []

    def looking(model: Any, *args: Any, **kwargs: Any) -> Run:
        hooks.append(sum(len(module._forward_hooks) for module in model.decoder.modules()))
        return honest(model, *args, **kwargs)

    monkeypatch.setattr(trial_run, "generate", looking)
    monkeypatch.setattr(trial_timing, "generate", looking)
    run(plan_of(measure=["latency"]), loaded)
    counting = trial_run.COUNTED_REQUESTS
    counted, timed = hooks[:counting], hooks[counting:]
    assert all(counted) and timed and not any(timed)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"crops": 3}, "crops through the vision encoder: 3 planned, 10 counted"),
        ({"vision_tokens": 79}, "image tokens in the language model: 79 planned, 80 counted"),
    ],
)
def test_a_preprocessing_that_says_what_did_not_happen_fails_the_trial(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch, told: dict[str, int], said: str
) -> None:
    honest = type(loaded).encode

    def lying(self: Any, prompts: Any) -> Any:
        batch = honest(self, prompts)
        return replace(batch, encodings=tuple(replace(encoding, **told) for encoding in batch.encodings))

    monkeypatch.setattr(type(loaded), "encode", lying)
    monkeypatch.setattr(greedy, "_require_feature_count", lambda batch, features: None)
    with pytest.raises(Mismatch, match=said):
        run(plan_of(knobs={"moe_top_k": [4]}), loaded)


def test_rows_say_what_hooks_counted(plan_of: Any, loaded: AbstractModel) -> None:
    row = run(plan_of(knobs={"moe_top_k": [[1, 2, 3, 4, 4, 3, 2, 1]], "max_crops": [1]}), loaded).row
    vision = loaded._model.config.vision_config  # type: ignore[attr-defined]
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    assert (row["vit_crops"], row["vit_patches"], row["lm_image_tokens"]) == (2, 2 * patches, 32)
    assert row["experts_by_router"] == "1 2 3 4 4 3 2 1"
    assert row["flops_first_token"] > row["flops_decode_step"] > 0  # type: ignore[operator]


def test_the_same_experts_in_other_blocks_are_other_work(plan_of: Any, loaded: AbstractModel) -> None:
    ks = [[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1], 2, {"k": 2, "renormalise": True}]
    rows = [run(plan_of(knobs={"moe_top_k": [k]}, measure=["accuracy"]), loaded) for k in ks]
    assert len({one.row["work_key"] for one in rows}) == len(ks)
    assert len({one.samples[0]["effective_key"] for one in rows}) == len(ks)


def test_output_tokens_caps_answers_and_fixes_the_timed_length(plan_of: Any, loaded: AbstractModel) -> None:
    result = run(plan_of(knobs={"output_tokens": [2]}), loaded)
    assert {s["tokens_generated"] for s in result.samples} == {2}
    assert {t["output_tokens"] for t in result.timings if not t["canary"]} == {2}
    assert result.row["timing_output_tokens"] == 2


@pytest.mark.parametrize("measured", [["accuracy"], ["latency"]])
def test_a_pass_that_is_not_asked_for_leaves_its_columns_empty(
    plan_of: Any, loaded: AbstractModel, measured: list[str]
) -> None:
    result = run(plan_of(measure=measured), loaded)
    assert ("accuracy" in result.row) == ("accuracy" in measured) == bool(result.samples)
    assert ("latency_ms_p50" in result.row) == ("latency" in measured) == bool(result.timings)
    assert result.row["vision_tokens"]


def test_equal_work_has_an_equal_key_and_is_called_saturated(plan_of: Any, loaded: AbstractModel) -> None:
    largest, beyond, small = (run(plan_of(knobs={"max_crops": [cap]}), loaded).row for cap in (30, 36, 1))
    assert largest["work_key"] == beyond["work_key"] != small["work_key"]
    assert largest["effect_max_crops"] == beyond["effect_max_crops"] == "saturated"
    assert small["effect_max_crops"] == "effective"
    assert largest["vision_tokens"] == beyond["vision_tokens"] > small["vision_tokens"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "knobs", [{"max_crops": [4]}, {"vision_tokens": [40]}, {"tiling": [[2, 1]]}, {"moe_top_k": [1]}], ids=str
)
def test_the_plan_s_prediction_is_what_the_model_sees(
    plan_of: Any, loaded: AbstractModel, knobs: dict[str, Any]
) -> None:
    plan = plan_of(knobs=knobs)
    assert predicted_vision_tokens(resolve(plan)) == pytest.approx(run(plan, loaded).row["vision_tokens"])


def test_a_broken_picture_costs_its_sample_and_the_trial_says_so(plan_of: Any, loaded: AbstractModel) -> None:
    def unreadable() -> Any:
        raise OSError("truncated file")

    resolved = resolve(plan_of())
    whole = resolved.task.subset("", 12, 3)
    broken = replace(whole[5], picture=Picture(width=90, height=90, load=unreadable))
    task: Task = replace(resolved.task, examples=lambda split: [*whole[:5], broken, *whole[6:]])
    result = run(resolved.plan, loaded, replace(resolved, task=task))
    assert result.state == "failed"
    assert "1 of 12 samples failed" in str(result.row["error"])
    assert broken.id in str(result.row["error"])
    assert "accuracy" not in result.row
    assert [s["sample"] for s in result.samples if s["end"] == "failed"] == [broken.id]
    assert len(result.samples) == 12


@pytest.mark.parametrize("lie", ["a stage counted twice", "a stage forgotten"])
def test_a_wrong_clock_is_caught(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    honest = greedy.generate

    def wrong(*args: Any, **kwargs: Any) -> Run:
        done = honest(*args, **kwargs)
        assert done.stages is not None
        prefill = done.stages.prefill_ms * (2 if "twice" in lie else 0)
        return replace(done, stages=replace(done.stages, prefill_ms=prefill))

    monkeypatch.setattr(trial_timing, "generate", wrong)
    with pytest.raises(Mismatch, match="stages add up to"):
        run(plan_of(), loaded)


def test_a_knob_that_lies_fails_the_trial(plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from vlmprof.knobs.moe_top_k import MoeTopK

    monkeypatch.setattr(MoeTopK, "applied", lambda self, model, value: nullcontext())
    with pytest.raises(Mismatch, match="moe_top_k"):
        run(plan_of(knobs={"moe_top_k": [1]}), loaded)


def test_out_of_memory_shrinks_the_batch_and_no_sample_is_lost(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    see, tried = type(loaded).see, []

    def small_device(self: Any, batch: Any, mark: Any) -> Any:
        tried.append(len(batch.encodings))
        if len(batch.encodings) > 3:
            raise RuntimeError("CUDA error: out of memory")
        return see(self, batch, mark)

    monkeypatch.setattr(type(loaded), "see", small_device)
    result = run(plan_of(measure=["accuracy"]), loaded)
    assert result.state == "done"
    assert len(result.samples) == 12
    assert max(s["batch_size"] for s in result.samples) <= 3  # type: ignore[type-var]
    assert sum(size > 3 for size in tried) <= 3


def test_one_failure_of_the_allocator_costs_nothing(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    see, failures = type(loaded).see, []

    def unlucky(self: Any, batch: Any, *args: Any) -> Any:
        if len(batch.encodings) == 12 and not failures:
            failures.append(12)
            raise RuntimeError("CUDA error: out of memory")
        return see(self, batch, *args)

    monkeypatch.setattr(type(loaded), "see", unlucky)
    result = run(plan_of(measure=["accuracy"]), loaded)
    assert failures and {s["batch_size"] for s in result.samples} == {12}


def test_a_pinned_batch_is_never_replaced_by_another(
    plan_of: Any, loaded: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = type(loaded).see

    def small_device(self: Any, batch: Any, *args: Any) -> Any:
        if len(batch.encodings) > 3:
            raise RuntimeError("CUDA error: out of memory")
        return see(self, batch, *args)

    monkeypatch.setattr(type(loaded), "see", small_device)
    with pytest.raises(OutOfMemory, match="at batch size 4"):
        run(plan_of(measure=["accuracy"], batch=4), loaded)


def test_a_broken_accelerator_ends_the_process_and_not_the_sweep(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Any, batch: Any, *args: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    from vlmprof.models.molmo.runtime import LoadedMolmo

    monkeypatch.setattr(LoadedMolmo, "see", lost)
    with pytest.raises(torch.AcceleratorError):
        Executor(BatchSizer(), gpus=0, name="test").run(plan_of(), ignore)


def test_what_does_not_fit_is_an_oom_row(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmprof.models.molmo.runtime import LoadedMolmo

    def no_room(self: Any, batch: Any, mark: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(LoadedMolmo, "see", no_room)
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan_of(), ignore)
    assert result.state == "oom"
    assert "out of memory at batch size 1" in str(result.row["error"])
    assert not result.samples and "accuracy" not in result.row


def test_a_checkpoint_that_changed_since_planning_is_refused(plan_of: Any) -> None:
    plan = replace(plan_of(), model_fingerprint="0123456789abcdef")
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, ignore)
    assert result.state == "failed"
    assert "planned for 0123456789abcdef" in str(result.row["error"])
    assert "Traceback" in result.trace
