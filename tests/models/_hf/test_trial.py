"""A whole trial of a model of transformers: from a job file to the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.knob_contract import fingerprint
from tests.jobs import small_job
from tests.models._hf.families import Family
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.trial.columns.row import finished
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import predicted_vision_tokens, resolve
from vlmprof.trial.run import run_trial

TURNED = {
    "idefics3_olmoe": {"active_blocks": [[0, 2, 3]], "max_crops": [4], "moe_top_k": [1], "output_tokens": [2]},
    "qwen3_vl_moe": {
        "active_blocks": [{"drop": [1], "policy": "drop"}],
        "moe_top_k": [[1, 2, 3, 4]],
        "max_pixels": [1024],
    },
    "llava_next_olmoe": {"vision_tokens": [40], "moe_top_k": [{"k": 1, "renormalise": True}]},
}


@pytest.mark.parametrize("name", TURNED)
def test_a_trial_runs_from_job_to_rows(tmp_path: Path, family_named: Callable[[str], Family], name: str) -> None:
    family = family_named(name)
    model = {"family": "transformers_vlm", "checkpoint": family.checkpoint.path}
    knobs = TURNED[name]
    (plan,) = small_job(tmp_path, "", models=[model], knobs=knobs).plans
    state = fingerprint(family.model)
    outcome = run_trial(resolve(plan), LoadedModel(family.model), BatchSizer(), lambda progress: None)
    result = finished(outcome, family.model, {})
    row = result.row
    assert (result.state, row["error"]) == ("done", None)
    assert {row[f"effect_{knob}"] for knob in knobs} == {"effective"}
    assert row["stage_sum_error"] <= 0.02  # type: ignore[operator]
    assert row["experts_kernel"] == "grouped_mm"
    assert row["attention"] == "sdpa"
    assert row["trust_remote_code"] is False
    assert len(result.samples) == 12
    assert predicted_vision_tokens(resolve(plan)) == pytest.approx(row["vision_tokens"])
    assert fingerprint(family.model) == state


def test_an_executor_loads_it_by_itself(tmp_path: Path, family_named: Callable[[str], Family]) -> None:
    model = {"family": "transformers_vlm", "checkpoint": family_named("aria").checkpoint.path}
    (plan,) = small_job(tmp_path, "", models=[model], knobs={"moe_top_k": [1]}, measure=["accuracy"]).plans
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert (result.state, result.row["error"]) == ("done", None)
    assert result.row["effect_moe_top_k"] == "effective"
