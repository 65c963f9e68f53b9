"""A trial that is cut off anywhere goes on from what it had answered, and gives the rows of an undisturbed one."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from tests.trial.test_score_pass import OWN
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import StoreError, Uncollected
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.versions import software
from vlmprof.plan.point import TrialPlan
from vlmprof.store.attempts import AttemptStart
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.trial import partial_results as chunk_module
from vlmprof.trial import samples as samples_module
from vlmprof.trial.answer_cache import AnswerCache
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.score_pass import ScorePass

EVERY_BATCH = ChunkSpec(seconds=0)
RESUMED = {*OWN, "attempts", "samples_resumed", "peak_bytes"}


class Killed(BaseException):
    """What no handler may catch, as a kill."""


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> TrialPlan:
    knobs = {"max_crops": [4]}
    return small_job(
        tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], batch={"max": 4, "audit_samples": 3}
    ).plans[0]


@pytest.fixture
def collector(tmp_path: Path, plan: TrialPlan) -> Iterator[Collector]:
    writer = Collector(tmp_path / "results", "small", wait_s=1)
    writer.open_run([plan.id], {})
    yield writer
    writer.close()


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """One model for all tests; a trial that was cut off leaves it as it came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerCache, "get", lambda *told: None)  # another process has no answers in memory
        yield Executor(BatchSizer(), gpus=0, name="test", policy=EVERY_BATCH)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The samples that were really answered in the score pass, in order; ``stop_before`` ends it before a call."""
    said: list[str] = []
    honest = ScorePass._answer

    def counted(self: ScorePass, samples: Any, prepared: Any) -> Any:
        if samples:
            if stop.get("before") == stop.setdefault("calls", 0):
                raise stop["with"]
            stop["calls"] += 1
        said.extend(sample.example.id for sample in samples)
        return honest(self, samples, prepared)

    stop.clear()
    monkeypatch.setattr(ScorePass, "_answer", counted)
    return said


stop: dict[str, Any] = {}


def run(executor: Executor, plan: TrialPlan, collector: Collector, begun: AttemptStart | None = None) -> TrialResult:
    begun = begun or collector.begin(plan.id, software=software())
    return executor.run(plan, lambda progress: None, begun, collector)


def cut_off(executor: Executor, plan: TrialPlan, collector: Collector, before: int, error: BaseException) -> None:
    stop.update({"before": before, "calls": 0, "with": error})
    with pytest.raises(type(error)):
        run(executor, plan, collector)
    collector.died(plan.id)
    stop.clear()


def alike(one: TrialResult, other: TrialResult) -> None:
    """But for batch sizes: what two processes had in hand when they died is answered alone."""
    kept = [[{**row, "batch_size": None} for row in each.samples] for each in (one, other)]
    assert kept[0] == kept[1]
    rows = [{name: value for name, value in each.row.items() if name not in RESUMED} for each in (one, other)]
    assert rows[0] == rows[1]


def test_cut_off_twice_it_answers_each_sample_once_and_gives_the_same_rows(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    undisturbed = executor.run(plan, lambda progress: None)
    answered.clear()
    cut_off(executor, plan, collector, 1, Killed())
    cut_off(executor, plan, collector, 1, Killed())
    resumed = run(executor, plan, collector)
    assert len(answered) == len(set(answered)) == 12
    alike(resumed, undisturbed)
    row = resumed.row
    assert (row["attempts"], row["samples_resumed"], row["score_processes"]) == (3, 8, 3)
    assert (undisturbed.row["samples_resumed"], undisturbed.row["score_processes"]) == (0, 1)
    assert row["score_mixed"] is None and row["samples_per_s"] > 0  # type: ignore[operator]


def test_cut_off_after_the_last_answer_it_scores_nothing_again(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = executor.run(plan, lambda progress: None)
    answered.clear()
    with monkeypatch.context() as patch:
        patch.setattr(LoadedModel, "answer_alone", lambda *told: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(executor, plan, collector)
    resumed = run(executor, plan, collector)
    assert len(answered) == 12
    alike(resumed, undisturbed)
    assert resumed.row["samples_per_s"] is None, "this process has scored nothing"
    assert resumed.row["score_processes"] == 1


def test_what_is_quarantined_is_neither_counted_nor_scored_nor_timed(
    executor: Executor, plan: TrialPlan, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = str(executor.run(plan, lambda progress: None).samples[0]["sample"])
    opened: list[str] = []
    honest = samples_module.open_pictures

    def seen(asked: Any) -> Any:
        opened.extend(one.example.id for one in asked)
        return honest(asked)

    monkeypatch.setattr(samples_module, "open_pictures", seen)
    begun = replace(collector.begin(plan.id, software=software()), quarantined={poison: "killed"})
    row = run(executor, plan, collector, begun).row
    assert opened and poison not in opened
    assert (row["samples_quarantined"], row["quarantined"], row["state"]) == (1, poison, "failed")


def test_the_audit_is_no_part_of_the_score_pass_s_speed(
    executor: Executor, plan: TrialPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LoadedModel.answer_alone

    def slow(self: LoadedModel, asked: Any, cap: int) -> Any:
        time.sleep(1.0)
        return honest(self, asked, cap)

    monkeypatch.setattr(LoadedModel, "answer_alone", slow)
    row = executor.run(plan, lambda progress: None).row
    assert row["seconds"] > 3 and 12 / row["samples_per_s"] <= row["seconds"] - 3  # type: ignore[operator]


def test_what_kills_is_run_alone_and_last_then_left_out_counted_and_named(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    undisturbed = [row["sample"] for row in executor.run(plan, lambda progress: None).samples]
    poison = answered[5]  # in the second batch
    answered.clear()
    honest = ScorePass._answer

    def deadly(self: ScorePass, samples: Any, prepared: Any) -> Any:
        if poison in [sample.example.id for sample in samples]:
            raise Killed
        return honest(self, samples, prepared)

    ScorePass._answer = deadly  # type: ignore[method-assign]  # undone by the fixture
    deaths = 0
    while True:
        try:
            result = run(executor, plan, collector)
            break
        except Killed:
            deaths += 1
            collector.died(plan.id)
    assert deaths == 3
    assert sorted([*answered, poison]) == sorted(undisturbed), "each other sample once"
    assert answered[-3:] and result.state == "failed"
    row = result.row
    assert (row["samples_failed"], row["samples_quarantined"], row["quarantined"]) == (1, 1, poison)
    assert "accuracy" not in row
    assert f"the first is {poison}: quarantined: ended its process" in str(row["error"])
    (lost,) = [each for each in result.samples if each["sample"] == poison]
    assert (lost["end"], lost["score"]) == ("failed", None)


def test_answers_of_unlike_devices_are_kept_and_told(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunk_module, "device_name", lambda device: "H200")
        cut_off(executor, plan, collector, 2, Killed())
    assert run(executor, plan, collector).row["score_mixed"] == "device: CPU, H200"
    assert len(answered) == 12


def test_pictures_that_were_cut_elsewhere_are_told_and_older_ones_were_cut_on_the_host() -> None:
    older = {"device": "H200", "engine": "graphs"}
    assert chunk_module._differences([older, {**older, "preprocess": "host"}]) == ""
    assert chunk_module._differences([older, {**older, "preprocess": "device"}]) == "preprocess: device, host"


def test_a_collector_that_refuses_does_not_fail_the_trial(
    executor: Executor, plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    begun = collector.begin(plan.id)
    collector.begin(plan.id)
    with pytest.raises(Uncollected, match="another process runs it"):
        run(executor, plan, collector, begun)
    assert not answered
    collector._broken = "the disk is full"
    with pytest.raises(Uncollected) as caught:
        run(executor, plan, collector, begun)
    assert isinstance(caught.value.__cause__, StoreError)


def test_a_chunk_is_full_by_count_or_by_seconds(plan: TrialPlan) -> None:
    sent: list[int] = []

    class Told:
        def under_way(self, *told: Any) -> None:
            """Nothing to note."""

        def keep(self, chunk: Any) -> None:
            sent.append(len(chunk.rows))

    from vlmprof.trial.outcome import ScoredSample
    from vlmprof.trial.resolve import resolve, subset_of

    resolved = resolve(plan)
    examples = subset_of(resolved)
    lost = [ScoredSample(example=one, generation=None, score=None, batch_size=0, error="x") for one in examples]
    loaded = LoadedModel(resolved.family.load(resolved.checkpoint, "cpu"))
    now = [0.0]
    policy = ChunkSpec(answers=5, seconds=10)
    chunks = PartialResults(AttemptStart(attempt="t"), Told(), plan.id, policy, lambda: now[0])
    chunks.restore(resolved, [], loaded)
    with chunks:
        chunks.add(lost[:3])
        chunks.add(lost[3:6])
        assert sent == [6]
        now[0] = 10.5
        chunks.add(lost[6:7])
        assert sent == [6, 1]
        chunks.add(lost[7:8])
    assert sent == [6, 1], "half a second of scoring is not worth a file when the pass is over"
    assert replace(chunks.merged()).samples == 0


def test_a_pass_that_is_interrupted_keeps_what_is_pending(
    plan: TrialPlan, collector: Collector, answered: list[str]
) -> None:
    patient = Executor(BatchSizer(), gpus=0, name="test", policy=ChunkSpec(seconds=1e6))
    cut_off(patient, plan, collector, 2, KeyboardInterrupt())
    run(patient, plan, collector)
    assert len(answered) == 12
