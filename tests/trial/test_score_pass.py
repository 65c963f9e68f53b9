"""Answers of the same work are given once: at the longest cap, whatever the knobs are called; and they are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import TrialResult
from vlmprof.trial import answer_cache, score_pass
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import ScoredSample
from vlmprof.trial.progress import SECONDS_COLUMNS

OWN = {"trial", "started", "seconds", "samples_per_s", "scored_by", "score_processes", "process", "load_average"}
OWN |= {"batch_source", "peak_bytes", "samples_shared", "shared_rechecked", *SECONDS_COLUMNS.values()}
"""Columns that say which run it was, and not what it found."""


def without_source(sample: Any) -> Any:
    return {name: value for name, value in sample.items() if name not in ("answered_by", "batch_size")}


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
        assert [without_source(one) for one in derived.samples] == [without_source(one) for one in own.samples]
        assert {one["answered_by"] for one in derived.samples} == {None if plan is plans[0] else plans[0].id}
        ours = {name: value for name, value in derived.row.items() if name not in OWN}
        assert ours == {name: value for name, value in own.row.items() if name not in OWN}
        longest = plans[0]
        assert derived.row["scored_by"] == (None if plan is longest else longest.id)
        assert own.row["scored_by"] is None
        assert (derived.row["samples_per_s"] is None) == (plan is not longest)
        assert derived.row["samples_shared"] == (0 if plan is longest else len(derived.samples))
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


def test_the_same_work_under_other_names_is_answered_once(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crop caps that do not bind, and blocks that another policy chooses: the distinct work is counted beforehand."""
    blocks = [{"keep": 8, "policy": "prefix"}, list(range(8)), {"keep": 4, "policy": "prefix"}]
    knobs = {"max_crops": [1, 4, 9, 16], "active_blocks": blocks, "moe_top_k": [4]}
    plans = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], batch={"max": 4}).plans
    answered: list[str] = []
    answer = LoadedModel.answer

    def counted(self: LoadedModel, batch: Any, cap: int) -> Any:
        answered.extend(str(one) for one in batch.batch.encodings)
        return answer(self, batch, cap)

    monkeypatch.setattr(LoadedModel, "answer", counted)
    shared = run_all(plans, fresh=False)
    together = len(answered)
    answered.clear()
    alone = run_all(plans, fresh=True)
    assert {result.state for result in (*shared.values(), *alone.values())} == {"done"}
    work = {
        (sample["sample"], sample["tiling_rows"], sample["tiling_cols"], result.row["blocks_executed"])
        for result in alone.values()
        for sample in result.samples
    }
    # A sample that is answered again alone is in no batch, and so not audited.
    theirs = OWN | {"shared_different", "audit_samples", "flip_rate_high"}
    rechecked = sum(result.row["shared_rechecked"] or 0 for result in shared.values())  # type: ignore[misc]
    assert len(work) < len(answered) and together == len(work) + rechecked
    for name, result in alone.items():
        mine = shared[name]
        assert [without_source(one) for one in mine.samples] == [without_source(one) for one in result.samples]
        assert mine.row["samples_shared"] == sum(one["answered_by"] is not None for one in mine.samples)
        assert mine.row["shared_different"] in (None, 0)
        ours = {column: value for column, value in mine.row.items() if column not in theirs}
        assert ours == {column: value for column, value in result.row.items() if column not in theirs}


def test_work_that_is_called_the_same_and_is_not_fails_the_trial(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that forgets the blocks: of 16 shared answers one is computed again, here all."""
    blocks = [{"keep": 8, "policy": "prefix"}, {"keep": 1, "policy": "prefix"}]
    knobs = {"active_blocks": blocks, "output_tokens": [8]}
    plans = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], batch={"max": 4}).plans
    monkeypatch.setattr(answer_cache, "settings_of", lambda model: ())
    monkeypatch.setattr(score_pass, "is_rechecked", lambda sample: True)
    first, second = run_all(plans, fresh=False).values()
    assert (first.state, second.state, second.distrusted) == ("done", "failed", True)
    assert "had given by the same work are other answers here; the first, to sample" in str(second.row["error"])


def test_a_failed_sample_is_answered_anew(plans: tuple[TrialPlan, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    opened, seen = score_pass.BatchPrefetcher.take, list[str]()

    def first_one_broken(self: Any, asked: Any, then: Any) -> Any:
        found, _ = opened(self, asked, then)
        if seen:
            return found, None
        seen.append(found.readable[0].example.id)
        lost = ScoredSample(example=found.readable[0].example, generation=None, score=None, batch_size=0, error="gone")
        return replace(found, readable=found.readable[1:], broken=(lost,)), None

    monkeypatch.setattr(score_pass.BatchPrefetcher, "take", first_one_broken)
    first, second = run_all(plans[:2], fresh=False).values()
    assert (first.state, second.state) == ("failed", "done")
    assert [one["sample"] for one in second.samples if one["answered_by"] is None] == seen
    assert second.row["scored_by"] is None and second.row["samples_shared"] == len(second.samples) - 1


@pytest.fixture
def plan_of(plan_of: Callable[..., TrialPlan]) -> Callable[..., TrialPlan]:
    return partial(plan_of, measure=["accuracy"])
