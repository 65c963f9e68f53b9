"""The estimate that puts trials in order: it grows with what a trial has to do, and ranks as what was counted ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from tests.jobs import small_job
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import Collector
from vlmprof.store.tables import read
from vlmprof.sweep.cost import CostEstimator
from vlmprof.sweep.inline import run_inline


def costs(folder: Path, checkpoint: Path, **sections: Any) -> dict[str, float]:
    """Point -> estimate."""
    estimator = CostEstimator()
    return {str(plan.point): estimator.estimate(plan).cost for plan in small_job(folder, checkpoint, **sections).plans}


@pytest.mark.parametrize(
    ("knob", "rising"),
    [
        ("max_crops", [1, 4, 9]),
        ("vision_tokens", [40, 80]),
        ("moe_top_k", [1, 2, 4]),
        ("output_tokens", [1, 4, 16]),
        ("active_blocks", [{"drop": [0, 1, 2], "policy": "drop"}, [0, 1, 2, 3, 4, 5], {"keep": 7, "policy": "prefix"}]),
    ],
)
@pytest.mark.parametrize("measure", [["accuracy"], ["latency"], ["accuracy", "latency"]])
def test_more_of_a_knob_costs_more(
    tmp_path: Path, tiny_checkpoint: Path, knob: str, rising: list[Any], measure: list[str]
) -> None:
    found = costs(tmp_path, tiny_checkpoint, knobs={knob: rising}, measure=measure)
    points = small_job(tmp_path, tiny_checkpoint, knobs={knob: rising}, measure=measure).plans
    by_value = {str(dict(plan.point)[knob]): found[str(plan.point)] for plan in points}
    ordered = [by_value[str(value)] for value in rising]
    assert ordered == sorted(ordered) and len(set(ordered)) == len(rising)


@pytest.mark.parametrize(
    "more",
    [
        {"samples": 40},
        {"timing": {"requests": 32}},
        {"timing": {"repeats": 60, "max_repeats": 90}},
        {"timing": {"batch_size": [1, 8]}},
        {"timing": {"output_tokens": [16, 1]}},
    ],
)
def test_more_samples_and_more_timing_cost_more(tmp_path: Path, tiny_checkpoint: Path, more: dict[str, Any]) -> None:
    task = {"name": "shapes_qa", "samples": more.pop("samples", 12)}
    once = costs(tmp_path, tiny_checkpoint, timing={})
    assert min(costs(tmp_path, tiny_checkpoint, tasks=[task], **{"timing": {}, **more}).values()) > min(once.values())


def test_every_timed_setting_costs_what_it_costs_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    def cost(**timing: Any) -> float:
        return min(costs(tmp_path, tiny_checkpoint, timing=timing, measure=["latency"]).values())

    several = cost(batch_size=[1, 8], output_tokens=[4, 16])
    alone = [cost(batch_size=batch, output_tokens=length) for batch in (1, 8) for length in (4, 16)]
    assert several == pytest.approx(sum(alone))


def test_trials_of_one_load_and_of_one_answer_are_told_apart(tmp_path: Path, tiny_checkpoint: Path) -> None:
    knobs = {"dtype": ["float32", "bfloat16"], "max_crops": [1, 4], "output_tokens": [1, 4]}
    estimator = CostEstimator()
    works = [estimator.estimate(plan) for plan in small_job(tmp_path, tiny_checkpoint, knobs=knobs).plans]
    assert [len({work.load for work in works}), len({work.chain for work in works}), len(works)] == [2, 4, 8]


def test_the_estimate_ranks_as_the_operations_that_were_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    knobs = {
        "max_crops": [1, 9],
        "moe_top_k": [1, 4],
        "active_blocks": [{"keep": 3, "policy": "prefix"}, {"keep": 8, "policy": "prefix"}],
    }
    job = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"])
    _run(job.plans, job.spec.folder)
    rows = read(job.spec.folder, "trials").set_index("trial")
    counted = rows["flops_first_token"] + rows["flops_decode_step"] * (rows["tokens_generated"] - 1)
    estimator = CostEstimator()
    estimated = [estimator.estimate(plan).cost for plan in job.plans]
    assert spearmanr(estimated, [float(counted[plan.id]) for plan in job.plans]).statistic > 0.9


def _run(plans: tuple[TrialPlan, ...], folder: Path) -> None:
    class Quiet:
        def update(self, snapshot: object) -> None: ...
        def note(self, line: str) -> None: ...

    collector = Collector(folder, "small", wait_s=1)
    collector.open_run([plan.id for plan in plans], {})
    run_inline(plans, 0, collector, Quiet(), gpus=0)
    collector.close()


def test_a_trial_whose_data_cannot_be_read_here_has_no_estimate_and_keeps_its_place(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*told: object) -> None:
        raise OSError("no such host")

    plan = small_job(tmp_path, tiny_checkpoint).plans[0]
    monkeypatch.setattr("vlmprof.sweep.cost.subset_of", gone)
    work = CostEstimator().estimate(plan)
    assert (work.id, work.cost, work.samples) == (plan.id, 0.0, 0)
