"""Shards: which there are, that the trial follows them, and that together they give the rows of one worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import small_job
from tests.sweep.sweeps import Silent, run, samples, what_was_measured
from tests.sweep.test_schedule import played, work
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import StoreError
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.versions import software
from vlmprof.plan.point import TrialPlan
from vlmprof.store import tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.inline import run_inline
from vlmprof.sweep.schedule import Schedule
from vlmprof.sweep.shards import MIN_SAMPLES, Shard, split, trials_of
from vlmprof.trial.answer_cache import AnswerCache
from vlmprof.trial.executor import Executor
from vlmprof.trial.progress import SECONDS_COLUMNS
from vlmprof.trial.resolve import resolve
from vlmprof.trial.samples import samples_of
from vlmprof.trial.score_pass import ScorePass, samples_of_shard

WHO_SCORED = {"samples_resumed", "score_processes", "attempts", "samples_per_s", "seconds", "started", "load_average"}
WHO_SCORED |= set(SECONDS_COLUMNS.values())


def scored(name: str, cost: float, chain: int, count: int = 300, timing: float = 1.0) -> ScheduledTrial:
    return ScheduledTrial(id=name, load=0, chain=chain, score_cost=cost, timing_cost=timing, samples=count)


@given(st.from_regex(r"[0-9a-f]{12}", fullmatch=True), st.integers(1, 64), st.data())
def test_a_shard_is_known_by_its_name_and_a_trial_is_none(trial: str, of: int, data: st.DataObject) -> None:
    shard = Shard(trial=trial, part=data.draw(st.integers(0, of - 1)), of=of)
    assert Shard.named(shard.name) == shard
    assert Shard.named(trial) is None


@pytest.mark.parametrize("pinned", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("of", [1, 2, 3, 5, 12, 13])
def test_the_shards_of_a_trial_have_each_sample_once_and_its_very_batches(
    plan: TrialPlan, pinned: int | None, of: int
) -> None:
    resolved = resolve(replace(plan, batch_size=pinned, batch_max=4))
    asked = samples_of(resolved)

    def ids(part: int, of: int) -> list[str]:
        places = Shard(trial="a", part=part, of=of).places
        return [one.example.id for one in samples_of_shard(resolved, asked, places)]

    parts = [ids(part, of) for part in range(of)]
    assert sorted(one for part in parts for one in part) == sorted(ids(0, 1))
    most = pinned or 4
    batches = [{tuple(part[i : i + most]) for i in range(0, len(part), most)} for part in [ids(0, 1), *parts]]
    if of * most <= len(asked):
        assert set().union(*batches[1:]) == batches[0]


def test_trials_that_are_scored_follow_their_shards_and_others_are_left_alone() -> None:
    cut, timed = scored("cut", 10, chain=0), work("timed", 0, chain=7, timing=5)
    found = split([scored("long", 90, chain=0), cut, timed], 3, workers=8)
    names = ["long-1of3", "long-2of3", "long-3of3"]
    assert [one.id for one in found] == [*names, "long", "cut", "timed"]
    assert found[3].after == frozenset(names) and (found[3].score_cost, found[3].timing_cost) == (0, 1)
    assert [(one.score_cost, one.timing_cost) for one in found[:3]] == [(30, 0)] * 3
    assert len({one.chain for one in found}) == 5 and found[4:] == [cut, timed]
    assert trials_of(found) == ["long", "cut", "timed"]


@pytest.mark.parametrize(
    ("trials", "workers", "count", "each"),
    [
        (1, 8, 1000, 8),
        (3, 8, 1000, 2),
        (8, 8, 1000, 1),
        (9, 8, 1000, 1),
        (1, 8, 3 * MIN_SAMPLES, 3),
        (1, 8, MIN_SAMPLES, 1),
    ],
)
def test_auto_gives_each_trial_its_share_of_the_workers(trials: int, workers: int, count: int, each: int) -> None:
    works = [scored(str(i), 10, chain=i, count=count) for i in range(trials)]
    assert len(split(works, "auto", workers)) == trials * (each + 1 if each > 1 else 1)


def test_no_more_shards_than_samples() -> None:
    assert len(split([scored("a", 10, chain=0, count=3)], 8, workers=8)) == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1, 50)), min_size=1, max_size=12), st.integers(1, 5))
def test_every_shard_and_trial_runs_once_and_in_its_order(drawn: list[tuple[int, float]], workers: int) -> None:
    works = split([scored(str(i), cost, chain) for i, (chain, cost) in enumerate(drawn)], 3, workers)
    _, started, _ = played(works, workers)
    order = [one.id for _, one in started]
    assert sorted(order) == sorted(one.id for one in works)
    for one in works:
        assert all(order.index(before) < order.index(one.id) for before in one.after)


def test_shards_that_die_are_followed_by_their_trial_all_the_same() -> None:
    schedule = Schedule(split([scored("a", 10, chain=0)], 2, workers=2))
    first, second = schedule.next(None), schedule.next(None)
    assert first and second and schedule.next(None) is None
    schedule.ended(first, worker_alive=False)
    assert schedule.next(None) is None
    schedule.ended(second, worker_alive=False)
    whole = schedule.next(None)
    assert whole is not None and whole.id == "a"


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> TrialPlan:
    batch = {"size": 3, "audit_samples": 4}
    return small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [4]}, measure=["accuracy"], batch=batch).plans[0]


@pytest.fixture
def collector(tmp_path: Path, plan: TrialPlan) -> Any:
    writer = Collector(tmp_path / "results", "small", wait_s=1)
    writer.open_run([plan.id], {})
    yield writer
    writer.close()


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    honest = ScorePass._answer

    def counted(self: ScorePass, samples: Any, prepared: Any) -> Any:
        said.extend(sample.example.id for sample in samples)
        return honest(self, samples, prepared)

    monkeypatch.setattr(ScorePass, "_answer", counted)
    monkeypatch.setattr(AnswerCache, "get", lambda *told: None)  # another process has no answers in memory
    return said


@pytest.fixture(scope="module")
def executor() -> Executor:
    """One model stands for all workers: a trial leaves it as it came."""
    return Executor(BatchSizer(), gpus=0, name="test", policy=ChunkSpec(seconds=0))


def answer(executor: Executor, plan: TrialPlan, collector: Collector, part: int, of: int) -> str:
    attempt = f"helper {part} of {of}"
    begun = collector.begin(plan.id, attempt, software=software(), shard=True)
    executor.run_part(plan, lambda progress: None, begun, collector, Shard(trial=plan.id, part=part, of=of).places)
    return attempt


def whole(executor: Executor, plan: TrialPlan, collector: Collector) -> TrialResult:
    begun = collector.begin(plan.id, software=software())
    return executor.run(plan, lambda progress: None, begun, collector)


def alike(one: TrialResult, other: TrialResult) -> None:
    assert one.samples == other.samples
    rows = [{name: value for name, value in each.row.items() if name not in WHO_SCORED} for each in (one, other)]
    assert rows[0] == rows[1]
    assert one.row["accuracy"] is not None and one.row["audit_samples"] == 4


def test_merged_rows_are_those_of_one_worker(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    undisturbed = executor.run(plan, lambda progress: None)
    answered.clear()
    for part in (2, 0, 1):
        answer(executor, plan, collector, part, 3)
    assert len(answered) == len(set(answered)) == 12
    merged = whole(executor, plan, collector)
    assert len(answered) == 12, "the trial scored what its shards had answered"
    alike(merged, undisturbed)
    assert (merged.row["samples_resumed"], merged.row["score_processes"]) == (12, 3)


def test_what_a_shard_left_is_answered_by_the_trial_and_the_number_may_change(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    undisturbed = executor.run(plan, lambda progress: None)
    answered.clear()
    answer(executor, plan, collector, 0, 3)
    assert len(answered) == 6
    answer(executor, plan, collector, 1, 2)  # half of all, less what is known already
    assert len(answered) == len(set(answered)) == 9
    merged = whole(executor, plan, collector)
    assert len(answered) == len(set(answered)) == 12
    alike(merged, undisturbed)
    assert (merged.row["samples_resumed"], merged.row["score_processes"]) == (9, 3)


def test_a_shard_comes_too_late_once_its_trial_has_begun(
    executor: Executor, plan: TrialPlan, collector: Collector
) -> None:
    late = collector.begin(plan.id, "late", software=software(), shard=True)
    begun = collector.begin(plan.id, software=software())
    with pytest.raises(Exception, match="is refused"):
        executor.run_part(plan, lambda progress: None, late, collector, slice(0, None, 2))
    assert collector.begin(plan.id, "later", software=software(), shard=True).state == "started"
    collector.finish(executor.run(plan, lambda progress: None, begun, collector), begun.attempt)
    assert collector.begin(plan.id, "last", software=software(), shard=True).state == "done"


def test_the_ledger_brings_shards_back_and_another_run_shuts_them_out(
    executor: Executor, plan: TrialPlan, collector: Collector, tmp_path: Path
) -> None:
    answer(executor, plan, collector, 0, 3)
    collector.close()
    again = Collector(tmp_path / "results", "small", wait_s=1)
    assert again._attempts.may_answer(plan.id, "helper 0 of 3"), "a collector that was restarted knows its helpers"
    again.open_run([plan.id], {})
    assert not again._attempts.may_answer(plan.id, "helper 0 of 3")
    assert sum(len(chunk.rows) for chunk in again.begin(plan.id, software=software()).chunks) == 6
    again.close()
    with pytest.raises(StoreError, match="has ended"):
        again.begin("x", "y", shard=True)


@pytest.mark.ray
def test_two_workers_on_one_trial_give_the_tables_of_one(tmp_path: Path, tiny_checkpoint: Path, cluster: str) -> None:
    batch = {"size": 3, "audit_samples": 4}
    sections = {"knobs": {"max_crops": [4], "output_tokens": [2, 4]}, "batch": batch}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = small_job(tmp_path / "one", tiny_checkpoint, **sections)
    collector = Collector(alone.spec.folder, alone.spec.name, wait_s=1)
    collector.open_run([plan.id for plan in alone.plans], {})
    run_inline(alone.plans, 0, collector, Silent(), gpus=0)
    collector.close()
    shared = small_job(tmp_path / "two", tiny_checkpoint, **sections, resources={"shards": 2})
    assert set(run(shared, cluster).values()) == {"done"}
    pd.testing.assert_frame_equal(samples(shared.spec.folder), samples(alone.spec.folder))
    pd.testing.assert_frame_equal(what_was_measured(shared.spec.folder), what_was_measured(alone.spec.folder))
    rows = tables.read(shared.spec.folder, "trials").set_index("requested_output_tokens")
    assert rows.loc["4", "samples_resumed"] == 12 and pd.isna(rows.loc["4", "scored_by"])
    assert rows.loc["2", "scored_by"] == rows.loc["4", "trial"]
