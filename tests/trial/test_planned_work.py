"""What a job will compute, said before it runs, against what it did compute."""

from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof import api
from vlmprof.trial.planned_work import PlannedWork

BLOCKS = [{"keep": 2, "policy": "prefix"}, [0, 1], {"keep": 1, "policy": "prefix"}]


@pytest.mark.parametrize(
    ("knobs", "distinct_a_sample"),
    [
        ({"output_tokens": [1, 2, 3]}, 1),
        ({"moe_top_k": [1, 2], "output_tokens": [1, 3]}, 2),
        ({"active_blocks": BLOCKS, "output_tokens": [2]}, 2),
        ({"max_crops": [30, 36], "output_tokens": [2]}, 1),
    ],
)
def test_so_many_answers_are_computed_as_the_plan_says(
    tmp_path: Path, tiny_checkpoint: Path, knobs: dict[str, Any], distinct_a_sample: int
) -> None:
    job = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], batch={"max": 4, "audit_samples": 0})
    said = PlannedWork().answers(job.plans)
    trials = api.run(job, inline=True).trials
    assert set(trials["state"]) == {"done"}
    rechecked = trials["shared_rechecked"].fillna(0).sum()
    assert said.asked == trials["samples"].sum()
    assert said.distinct == (trials["samples"] - trials["samples_shared"]).sum() - rechecked
    assert said.distinct == distinct_a_sample * trials["samples"].iloc[0]


def test_what_is_only_timed_asks_for_no_answer(tmp_path: Path, tiny_checkpoint: Path) -> None:
    job = small_job(tmp_path, tiny_checkpoint, measure=["latency"])
    said = PlannedWork().answers(job.plans)
    assert (said.asked, said.distinct) == (0, 0)


def test_tokens_are_those_of_each_trial_and_pictures_are_looked_at_once(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmprof.trial import planned_work

    job = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [1, 4], "moe_top_k": [1, 2]})
    looked, count = [], planned_work.predicted_vision_tokens
    monkeypatch.setattr(planned_work, "predicted_vision_tokens", lambda resolved: looked.append(1) or count(resolved))
    work = PlannedWork()
    assert [work.vision_tokens(plan) for plan in job.plans] == [count(planned_work.resolve(plan)) for plan in job.plans]
    assert len(looked) == 2
