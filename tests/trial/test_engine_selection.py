"""Which engine a job may name, which one it gets, and what the row says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.base import EAGER
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import ModelError, SpecError
from vlmprof.trial.engine_selection import engine_for, why_not_recorded
from vlmprof.trial.executor import Executor
from vlmprof.trial.resolve import resolve


class OnDevice:
    """As much of a loaded model as the choice looks at."""

    def __init__(self, device: str, **kernels: str) -> None:
        self.device = device
        self.kernels = {"dtype": "bfloat16", "attention": "sdpa", "experts_kernel": "grouped_mm"} | kernels


def faults(tmp_path: Path, checkpoint: Path, **sections: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        small_job(tmp_path, checkpoint, **sections)
    return [str(fault) for fault in caught.value.faults]


def test_auto_is_no_part_of_an_id_and_any_other_engine_is(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [1]}).plans
    assert plan.engine == "auto"
    assert len({replace(plan, engine=name).id for name in ("auto", "eager", "graphs", "compiled")}) == 4
    assert small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [1]}, engine="auto").plans[0].id == plan.id


def test_auto_records_on_a_gpu_where_it_can(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [1]}).plans
    anatomy = resolve(plan).anatomy
    choose: Any = engine_for
    assert choose(plan, anatomy, OnDevice("cpu")) is EAGER
    chosen = choose(plan, anatomy, OnDevice("cuda"))
    assert isinstance(chosen, StaticEngine) and chosen.describe()["engine"] == "graphs"
    assert choose(plan, anatomy, OnDevice("cuda", experts_kernel="eager")) is EAGER
    assert choose(plan, replace(anatomy, only_eager="sliding"), OnDevice("cuda")) is EAGER
    for kernels in ({"attention": "flash_attention_2"}, {"experts_kernel": "eager"}):
        with pytest.raises(ModelError, match="cannot be recorded"):
            choose(replace(plan, engine="compiled"), anatomy, OnDevice("cuda", **kernels))


def test_a_kernel_that_the_point_names_runs_as_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"experts_kernel": ["batched_mm"]}).plans
    choose: Any = engine_for
    engine = choose(plan, resolve(plan).anatomy, OnDevice("cuda", experts_kernel="batched_mm"))
    assert (engine._kernels._attention, engine._kernels._experts) == (True, False)


def test_what_a_job_alone_shows_is_a_fault(tmp_path: Path, tiny_checkpoint: Path) -> None:
    found = faults(tmp_path, tiny_checkpoint, engine="graphs", resources={"gpus": 0})
    assert found == ["engine: graphs records CUDA graphs, and resources.gpus is 0; use eager or auto"]
    found = faults(tmp_path, tiny_checkpoint, engine="compiled", knobs={"experts_kernel": ["grouped_mm", "eager"]})
    assert found == ["engine: compiled cannot record steps with experts_kernel 'eager', only grouped_mm or batched_mm"]
    assert "did you mean 'graphs'?" in faults(tmp_path, tiny_checkpoint, engine="graph")[0]


def test_a_cpu_that_is_asked_to_record_fails_with_the_reason(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [1]}, engine="graphs").plans
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert result.state == "failed"
    assert "this trial runs on a CPU; use engine: eager" in str(result.row["error"])


def test_the_row_says_which_engine_ran(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [1]}, measure=["accuracy"]).plans
    row = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None).row
    assert row["engine"] == "eager" and row.get("decode_experts") is None


def test_kernels_of_several_parts_must_all_be_recordable() -> None:
    assert why_not_recorded({"attention": "sdpa", "experts_kernel": ""}) == ""
    assert "eager+sdpa" in why_not_recorded({"attention": "sdpa+eager", "experts_kernel": "grouped_mm"})
