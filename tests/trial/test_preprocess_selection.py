"""Where a job may have pictures cut, where they are cut, and what the row says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import ModelError, SpecError
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import TrialResult
from vlmprof.surfaces import Anatomy
from vlmprof.trial import preprocess_selection
from vlmprof.trial.executor import Executor
from vlmprof.trial.load_key import key_without_length
from vlmprof.trial.preprocess_selection import preprocess_for
from vlmprof.trial.resolve import resolve

ONE: dict[str, Any] = {"knobs": {"moe_top_k": [4]}}


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> TrialPlan:
    return small_job(tmp_path, tiny_checkpoint, **ONE).plans[0]


def run(folder: Path, checkpoint: Path, **sections: Any) -> TrialResult:
    (plan,) = small_job(folder, checkpoint, **{**ONE, **sections}).plans
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert result.state == "done", result.row["error"]
    return result


def test_auto_is_no_part_of_an_id_and_any_other_value_is(
    plan: TrialPlan, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    assert plan.preprocess == "auto"
    assert len({replace(plan, preprocess=where).id for where in ("auto", "device", "host")}) == 3
    assert small_job(tmp_path, tiny_checkpoint, **ONE, preprocess="auto").plans[0].id == plan.id
    keys = {key_without_length(replace(plan, preprocess=where)) for where in ("auto", "device", "host")}
    assert len(keys) == 3, "no answers are cut from those of another arithmetic"


def test_auto_is_the_device_on_a_gpu_where_the_model_can(plan: TrialPlan) -> None:
    molmo = resolve(plan).anatomy
    other = replace(molmo, only_host="its family cuts on the host only")
    assert preprocess_for(plan, molmo, "cuda") == "device"
    assert preprocess_for(plan, molmo, "cpu") == "host"
    assert preprocess_for(plan, other, "cuda") == "host"
    assert preprocess_for(replace(plan, preprocess="host"), molmo, "cuda") == "host"
    assert preprocess_for(replace(plan, preprocess="device"), molmo, "cpu") == "device"
    with pytest.raises(ModelError, match="use preprocess: host"):
        preprocess_for(replace(plan, preprocess="device"), other, "cuda")


def test_a_family_cuts_on_the_host_unless_it_says_otherwise(plan: TrialPlan) -> None:
    assert Anatomy.__dataclass_fields__["only_host"].default
    assert resolve(plan).anatomy.only_host == ""


def test_what_a_job_alone_shows_is_a_fault(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError) as caught:
        small_job(tmp_path, tiny_checkpoint, **ONE, preprocess="devise")
    assert "did you mean 'device'?" in str(caught.value)
    spec = small_job(tmp_path, tiny_checkpoint, **ONE, preprocess="device").spec
    anatomy = resolve(small_job(tmp_path, tiny_checkpoint, **ONE).plans[0]).anatomy
    models = [("able", anatomy), ("other", replace(anatomy, only_host="it cannot"))]
    assert list(preprocess_selection.preprocess_faults(spec, models)) == [
        "it cannot; use host or auto (for model other)"
    ]
    assert not list(preprocess_selection.preprocess_faults(spec.model_copy(update={"preprocess": "auto"}), models))


def test_a_trial_answers_the_same_wherever_it_cuts(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """In float32; scored in batches from threads and from cached features, audited, and timed."""
    sections = {"batch": {"audit_samples": 4}}
    host = run(tmp_path, tiny_checkpoint, **sections)
    device = run(tmp_path, tiny_checkpoint, preprocess="device", **sections)
    assert (host.row["preprocess"], device.row["preprocess"]) == ("host", "device")
    assert host.trial != device.trial
    answers = ("sample", "prediction", "score", "vision_tokens", "tiling_rows", "tiling_cols", "prompt_tokens")
    assert [[row[name] for name in answers] for row in host.samples] == [
        [row[name] for name in answers] for row in device.samples
    ]
    assert device.row["stage_sum_error"] <= 0.02 and device.row["flips"] == 0
    assert all(row["preprocess_ms"] > 0 for row in device.timings)


def test_the_host_cuts_nothing_where_the_device_does(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LoadedMolmo.encode

    def without_pixels(self: LoadedMolmo, prompts: Any) -> Any:
        batch = encode(self, prompts)
        assert batch.uncut and "pixel_values" not in batch.inputs
        return batch

    monkeypatch.setattr(LoadedMolmo, "encode", without_pixels)
    run(tmp_path, tiny_checkpoint, preprocess="device")
