"""Several batch sizes and lengths in one trial: each is timed, nothing is scored again, one that fails fails alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import QUICK, small_job
from vlmprof.analyze.objectives import parse_objectives
from vlmprof.analyze.pareto import fronts
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.plan.point import TrialPlan
from vlmprof.store import tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.schema import AT_A_SETTING, at_setting
from vlmprof.trial import run as trial_run
from vlmprof.trial import score_pass
from vlmprof.trial.executor import Executor
from vlmprof.trial.outcome import TimingSession
from vlmprof.trial.progress import Progress
from vlmprof.trial.timing_pass import TimingPass

pytestmark = pytest.mark.serial

LISTS = {**QUICK, "batch_size": [1, 4], "output_tokens": [2, 5]}
FURTHER = ("b1_o5", "b4_o2", "b4_o5")


def run(plan: TrialPlan, told: Callable[[Progress], None] = lambda progress: None) -> TrialResult:
    return Executor(BatchSizer(), gpus=0, name="test").run(plan, told)


def failing_at(monkeypatch: pytest.MonkeyPatch, error: Exception, *settings: tuple[int, int]) -> None:
    """Timing passes of these batch sizes and lengths raise; the others run."""
    real = TimingPass.run

    def run_or_raise(self: TimingPass, *args: Any) -> TimingSession:
        if (self.timing.batch_size, self.timing.output_tokens) in settings:
            raise error
        return real(self, *args)

    monkeypatch.setattr(TimingPass, "run", run_or_raise)


def test_each_setting_is_measured_and_samples_are_scored_once(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    real = score_pass.ScorePass.run

    def counting(self: Any) -> Any:
        scored.append(1)
        return real(self)

    monkeypatch.setattr(score_pass.ScorePass, "run", counting)
    done = run(plan_of(timing=LISTS))
    row: Any = done.row
    assert done.state == "done", row["error"]
    assert scored == [1] and len(done.samples) == 12
    assert (row["timing_batch_size"], row["timing_output_tokens"]) == (1, 2)
    assert {name for name in row if "_at_b" in name} <= {at_setting(n, s) for n in AT_A_SETTING for s in FURTHER}
    for setting, batch, length in zip(FURTHER, (1, 4, 4), (5, 2, 5), strict=True):
        of_setting = [t for t in done.timings if t["setting"] == FURTHER.index(setting) + 1]
        assert {t["batch_size"] for t in of_setting} == {batch}
        assert {t["output_tokens"] for t in of_setting if not t["canary"]} == {length}
        low, rate, high = (row[at_setting(f"timing_samples_per_s{end}", setting)] for end in ("_low", "", "_high"))
        assert low <= rate <= high
        assert row[at_setting("timing_tokens_per_s", setting)] == pytest.approx(length * rate)
        rates = [1e3 * batch / t["end_to_end_ms"] for t in of_setting if not t["canary"]]  # type: ignore[operator]
        assert min(rates) <= rate <= max(rates)
        assert row[at_setting("timing_error", setting)] is None


def test_the_columns_of_the_first_setting_are_those_of_a_number(plan_of: Any) -> None:
    one, several = (run(plan_of(timing={**QUICK, "batch_size": batch})).row for batch in (4, [4, 1]))
    assert {name for name in several if "_at_b" not in name} == set(one)
    assert several["timing_batch_size"] == 4 == one["timing_batch_size"]


def test_one_that_does_not_fit_says_why_and_costs_no_other(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(monkeypatch, OutOfMemory(4, "no room for it"), (4, 2), (4, 5))
    done = run(plan_of(timing=LISTS))
    row: Any = done.row
    assert done.state == "done" and row["accuracy"] is not None and row["latency_ms_p50"] > 0
    assert "no room for it" in row["timing_error_at_b4_o2"] and row["timing_error_at_b1_o5"] is None
    assert row["latency_ms_p50_at_b1_o5"] > 0 and row.get("latency_ms_p50_at_b4_o2") is None
    assert {t["setting"] for t in done.timings} == {0, 1}


def test_where_the_first_does_not_fit_the_others_are_still_timed(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(monkeypatch, OutOfMemory(4, "no room for it"), (4, 2))
    done = run(plan_of(timing={**QUICK, "batch_size": [4, 1]}, measure=["latency"]))
    row: Any = done.row
    assert done.state == "done" and "no room for it" in row["timing_error"]
    assert (row["timing_batch_size"], row.get("latency_ms_p50")) == (4, None)
    assert row["latency_ms_p50_at_b1_o2"] > 0


def test_where_none_fits_the_trial_is_out_of_memory(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(monkeypatch, OutOfMemory(1, "no room"), (1, 2), (1, 5), (4, 2), (4, 5))
    assert run(plan_of(timing=LISTS)).state == "oom"


def test_a_broken_rule_at_one_setting_still_fails_the_trial(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(monkeypatch, Mismatch("the stages do not add up"), (4, 5))
    done = run(plan_of(timing=LISTS))
    assert done.state == "failed" and "do not add up" in str(done.row["error"])


def test_times_that_are_impossible_at_one_setting_are_not_given(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmprof.trial.columns import settings

    real = settings.latency_columns

    def beyond(outcome: Any, *args: Any) -> Any:
        return {**real(outcome, *args), "impossible": True, "impossible_why": "prefill took 0.001 ms"}

    monkeypatch.setattr(settings, "latency_columns", beyond)
    row = run(plan_of(timing=LISTS)).row
    assert row["timing_error_at_b4_o2"] == "impossible: prefill took 0.001 ms"
    assert row.get("timing_samples_per_s_at_b4_o2") is None and row["latency_ms_p50"] is not None


def test_every_process_times_every_setting_and_one_failure_drops_the_setting(
    plan_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(timing={**QUICK, "batch_size": [1, 4], "processes": 2}, measure=["latency"])
    real = TimingPass.run

    def second_fails(self: TimingPass, *args: Any) -> TimingSession:
        if self.session == 1 and self.timing.batch_size == 4:
            raise OutOfMemory(4, "no room any more")
        return real(self, *args)

    done = run(plan)
    assert {(t["session"], t["setting"]) for t in done.timings} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    monkeypatch.setattr(TimingPass, "run", second_fails)
    done = run(plan)
    row: Any = done.row
    assert done.state == "done" and row["timing_processes"] == 2
    assert "no room any more" in row["timing_error_at_b4_o2"] and row.get("latency_ms_p50_at_b4_o2") is None


def test_the_length_that_a_knob_sets_is_not_in_the_names(plan_of: Any) -> None:
    timing = {**QUICK, "batch_size": [1, 2]}
    row: Any = run(plan_of(timing=timing, knobs={"output_tokens": [3]}, measure=["latency"])).row
    assert row["timing_output_tokens"] == 3 and row["latency_ms_p50_at_b2"] > 0
    assert row["timing_tokens_per_s_at_b2"] == pytest.approx(3 * row["timing_samples_per_s_at_b2"])


def test_progress_goes_on_over_all_settings_and_names_them(plan_of: Any) -> None:
    told: list[Progress] = []
    run(plan_of(timing=LISTS, measure=["latency"]), told.append)
    timed = [one for one in told if one.phase == "time"]
    assert [one.done for one in timed] == sorted(one.done for one in timed)
    assert len({one.total for one in timed}) == 1 and max(one.done for one in timed) <= timed[0].total
    assert any("batch 4, 5 tokens" in one.note for one in timed)


def test_an_engine_may_try_again_to_record_before_each_setting(
    plan_of: Any, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Counting(trial_run.TimingPass):  # type: ignore[misc]  # final, and wrapped for what it is given
        def run(self, *args: Any) -> TimingSession:
            asked.append(self.timing.batch_size)
            return super().run(*args)

    monkeypatch.setattr(trial_run, "TimingPass", Counting)
    monkeypatch.setattr("vlmprof.engine.base.Eager.begin_timing", lambda self: asked.append(0))
    run(plan_of(timing={**QUICK, "batch_size": [1, 2]}, measure=["latency"]))
    assert asked == [0, 1, 0, 2]


def test_throughput_at_a_setting_is_an_objective_of_a_front(tmp_path: Path, tiny_checkpoint: Path) -> None:
    job = small_job(tmp_path, tiny_checkpoint, timing={**QUICK, "batch_size": [1, 4]}, measure=["latency"])
    collector = Collector(job.spec.folder, "small", wait_s=1)
    collector.open_run([plan.id for plan in job.plans], {})
    executor = Executor(BatchSizer(), gpus=0, name="test")
    for plan in job.plans[:2]:
        collector.finish(executor.run(plan, lambda progress: None))
    collector.close()
    trials = tables.read(job.spec.folder, "trials")
    name = "timing_samples_per_s_at_b4_o2"
    (objective,) = parse_objectives([name], tables.schema_of(trials))
    assert (objective.better, objective.unit) == ("higher", "samples/s")
    (front,) = fronts(trials, [name, "latency_ms_p50"]).fronts
    assert len(front.rows) == 2 and front.rows[name].is_monotonic_decreasing
    assert tables.read(job.spec.folder, "timings")["setting"].isin([0, 1]).all()
