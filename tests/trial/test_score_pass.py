"""One scoring run at the longest cap gives the answers at every shorter one, exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import TrialResult
from vlmprof.trial import score_pass
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.progress import SECONDS_COLUMNS

OWN = {"trial", "started", "seconds", "samples_per_s", "scored_by", "score_processes", "process", "load_average"}
OWN |= {"batch_source", "peak_bytes", *SECONDS_COLUMNS.values()}
"""Columns that say which run it was, and not what it found."""


@pytest.fixture
def plans(tmp_path: Path, tiny_checkpoint: Path) -> tuple[TrialPlan, ...]:
    knobs = {"output_tokens": [1, 5, 2], "moe_top_k": [4, 1]}
    return small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], batch={"max": 4}).plans


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cap of every batch that was really answered."""
    caps: list[int] = []
    answer = LoadedModel.answer

    def counted(self: LoadedModel, batch: Any, cap: int) -> Any:
        caps.append(cap)
        return answer(self, batch, cap)

    monkeypatch.setattr(LoadedModel, "answer", counted)
    return caps


def run_all(plans: tuple[TrialPlan, ...], fresh: bool) -> dict[str, TrialResult]:
    executor = Executor(BatchSizer(), gpus=0, name="test")
    results = {}
    for plan in plans:
        if fresh:
            executor = Executor(BatchSizer(), gpus=0, name="test")
        results[plan.id] = executor.run(plan, lambda progress: None)
    return results


def test_the_plan_puts_the_longest_first(plans: tuple[TrialPlan, ...]) -> None:
    points = [dict(plan.point) for plan in plans]
    assert [(point["moe_top_k"], point["output_tokens"]) for point in points] == [
        (4, 5), (4, 2), (4, 1), (1, 5), (1, 2), (1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("experts", [4, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_derived_rows_are_those_of_trials_that_scored_themselves(
    plans: tuple[TrialPlan, ...], scoring: list[int], experts: int
) -> None:
    plans = tuple(plan for plan in plans if dict(plan.point)["moe_top_k"] == experts)
    shared = run_all(plans, fresh=False)
    assert set(scoring) == {5}, "only the longest was answered"
    alone = run_all(plans, fresh=True)
    assert set(scoring) == {1, 2, 5}
    for plan in plans:
        derived, own = shared[plan.id], alone[plan.id]
        assert (derived.state, own.state) == ("done", "done")
        assert derived.samples == own.samples
        ours = {name: value for name, value in derived.row.items() if name not in OWN}
        assert ours == {name: value for name, value in own.row.items() if name not in OWN}
        longest = plans[0]
        assert derived.row["scored_by"] == (None if plan is longest else longest.id)
        assert own.row["scored_by"] is None
        assert (derived.row["samples_per_s"] is None) == (plan is not longest)
    assert len({result.row["tokens_generated"] for result in shared.values()}) > 1


def test_a_trial_whose_source_is_missing_scores_itself(plans: tuple[TrialPlan, ...], scoring: list[int]) -> None:
    """As after a crash: the longest is done already, the rest is run by a process that never saw its answers."""
    results = run_all(plans[1:3], fresh=False)
    assert [result.row["scored_by"] for result in results.values()] == [None, plans[1].id]
    assert set(scoring) == {2}


def test_other_settings_are_never_mixed_up(
    plans: tuple[TrialPlan, ...], monkeypatch: pytest.MonkeyPatch, plan_of: Callable[..., TrialPlan]
) -> None:
    results = run_all((plans[0], plan_of(knobs={"output_tokens": [2]})), fresh=False)
    assert [result.row["scored_by"] for result in results.values()] == [None, None]


def test_answers_with_a_failed_sample_are_no_source(
    plans: tuple[TrialPlan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = score_pass.BatchPrefetcher.take

    def first_one_broken(self: Any, asked: Any, then: Any) -> Any:
        found, _ = opened(self, asked, then)
        from dataclasses import replace

        from vlmprof.trial.outcome import ScoredSample

        lost = ScoredSample(example=found.readable[0].example, generation=None, score=None, batch_size=0, error="gone")
        rest = replace(found, readable=found.readable[1:], broken=(lost,))
        return rest, None

    monkeypatch.setattr(score_pass.BatchPrefetcher, "take", first_one_broken)
    results = run_all(plans[:2], fresh=False)
    assert [result.row["scored_by"] for result in results.values()] == [None, None]


@pytest.fixture
def plan_of(plan_of: Callable[..., TrialPlan]) -> Callable[..., TrialPlan]:
    return partial(plan_of, measure=["accuracy"])
