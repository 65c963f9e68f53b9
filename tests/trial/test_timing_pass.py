"""The timing pass: when it stops, what disturbs it, what the canary says, what is kept."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.jobs import QUICK, small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import OutOfMemory, UserError
from vlmprof.measure import disturbance
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import Timing
from vlmprof.records import Picture, Run, StageTimes
from vlmprof.trial import timing_pass as trial_timing
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import TimingSession
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import resolve, subset_of
from vlmprof.trial.run import drawn_evenly, run_trial
from vlmprof.trial.samples import samples_of
from vlmprof.trial.score_pass import longest_first
from vlmprof.trial.timing_pass import CANARY_TOKENS, TimingPass, TimingRequests

pytestmark = pytest.mark.serial

TIMING = Timing(
    batch_size=1,
    requests=1,
    output_tokens=3,
    warmup=15,
    warmup_seconds=0.0,
    repeats=20,
    max_repeats=100,
    max_seconds=1e9,
    precision=0.01,
    processes=1,
    exclusive=False,
    energy_seconds=0.0,
)


class Cpu:
    """All that a timer asks of a model here."""

    device = "cpu"

    def synchronize(self) -> None:
        """Nothing is queued."""


class Script:
    """Stands in for the engine: a generation takes what the script says, canaries a tenth of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times_ms: Callable[[int], float]) -> None:
        self.ran, self.times_ms, self.causes = 0, times_ms, iter(())
        self.canaries_ms: Iterator[float] = iter(lambda: 10.0, None)
        monkeypatch.setattr(trial_timing, "generate", self.generate)
        monkeypatch.setattr(disturbance, "causes", lambda *_: next(self.causes, ""))

    def generate(self, model: Any, prompts: Any, max_new_tokens: int, **_: Any) -> Run:
        if max_new_tokens == CANARY_TOKENS:
            return Run(generations=(), stages=stages(next(self.canaries_ms)))
        self.ran += 1
        return Run(generations=(), stages=stages(self.times_ms(self.ran)))


def stages(total_ms: float) -> StageTimes:
    return StageTimes(
        preprocess_ms=total_ms / 2,
        transfer_ms=0.0,
        vision_ms=total_ms / 4,
        connector_ms=None,
        prefill_ms=total_ms / 4,
        step_ms=(),
        end_to_end_ms=total_ms,
    )


def session(timing: Timing = TIMING) -> TimingSession:
    work = TimingRequests(requests=[[]], length=3, configured=nullcontext)
    model: Any = Cpu()
    return TimingPass(timing, model, work).run(0.0, lambda progress: None)


def test_quiet_times_stop_at_the_fewest_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 + n % 3 * 0.1)
    done = session()
    assert (done.stopped, done.warmup_generations, done.warm) == ("precision", 15, True)
    assert [len(block.timed) for block in done.blocks] == [8, 8, 8]
    assert all(block.canary for block in done.blocks)


def test_loud_times_go_on_until_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 + (n * 7919 % 41))
    done = session()
    assert done.stopped == "max_repeats"
    assert sum(len(block.timed) for block in done.blocks) == TIMING.max_repeats


def test_while_it_goes_on_it_says_how_far_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 + (n * 7919 % 41))
    told: list[Progress] = []
    work, model = TimingRequests(requests=[[]], length=3, configured=nullcontext), cast(Any, Cpu())
    TimingPass(TIMING, model, work).run(0.0, told.append)
    timed = [one for one in told if one.phase == "time" and one.note]
    assert timed and {one.total for one in timed} == {TIMING.max_repeats}
    assert all(re.fullmatch(r"interval \d+\.\d %, asked 1 %", one.note) for one in timed), timed
    assert [one.done for one in timed] == sorted(one.done for one in timed)


def test_a_precision_between_is_reached_between(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 + (n * 7919 % 41) / 4)
    done = session(replace(TIMING, precision=0.03))
    repeats = sum(len(block.timed) for block in done.blocks)
    assert done.stopped == "precision" and TIMING.repeats <= repeats < TIMING.max_repeats


def test_a_time_limit_leaves_enough_for_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 + (n * 7919 % 41))
    done = session(replace(TIMING, max_seconds=1e-9))
    assert done.stopped == "max_seconds" and sum(len(block.timed) for block in done.blocks) == 8


def test_warm_up_that_does_not_settle_ends_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 100.0 * 1.01**n if n <= 60 else 100.0)
    done = session()
    assert (done.warmup_generations, done.warm) == (60, False)


def test_a_disturbed_block_is_kept_apart_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda n: 100.0)
    script.causes = iter(["", "throttled"])
    done = session()
    assert [bool(block.disturbed) for block in done.blocks] == [False, True, False, False]
    assert len(done.kept) == 3 and done.blocks[1] not in done.kept
    assert [t.repeat for block in done.blocks for t in block.timed] == list(range(32)), "a repeat has one number"


def test_a_disturbance_that_stays_counts_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda n: 100.0)
    script.causes = iter(["waited for a processor (9%)"] * 99)
    done = session()
    assert done.stopped == "precision" and len(done.kept) == len(done.blocks) == 3


def test_slow_values_alone_are_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    Script(monkeypatch, lambda n: 300.0 if n % 9 == 0 else 100.0)
    done = session()
    assert done.kept == done.blocks
    assert max(value.ms for block in done.kept for value in block.times) == 300.0


def test_a_canary_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda n: 100.0)

    def too_large(model: Any, prompts: Any, max_new_tokens: int, **more: Any) -> Run:
        if max_new_tokens == CANARY_TOKENS:
            raise OutOfMemory(1, "no room")
        return script.generate(model, prompts, max_new_tokens, **more)

    monkeypatch.setattr(trial_timing, "generate", too_large)
    assert not any(block.canary for block in session().blocks)


def test_the_knobs_are_on_for_repeats_and_off_for_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    script, on, seen = Script(monkeypatch, lambda n: 100.0), [], set()

    class Knobs:
        def __enter__(self) -> None:
            on.append(1)

        def __exit__(self, *_: object) -> None:
            on.pop()

    def looking(model: Any, prompts: Any, max_new_tokens: int, **more: Any) -> Run:
        seen.add((max_new_tokens == CANARY_TOKENS, bool(on)))
        return script.generate(model, prompts, max_new_tokens, **more)

    monkeypatch.setattr(trial_timing, "generate", looking)
    model: Any = Cpu()
    TimingPass(TIMING, model, TimingRequests(requests=[[]], length=3, configured=Knobs)).run(0.0, lambda progress: None)
    assert seen == {(False, True), (True, False)}


def test_processes_load_the_model_anew_and_drift_is_told(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmprof.models.demo import Demo

    loads: list[int] = []
    load = Demo.load

    def counting(self: Demo, *args: Any) -> AbstractModel:
        loads.append(1)
        return load(self, *args)

    monkeypatch.setattr(Demo, "load", counting)
    job = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing={**QUICK, "processes": 3})
    executor = Executor(BatchSizer(), gpus=0, name="test")
    first, second = (executor.run(plan, lambda progress: None) for plan in job.plans[:2])
    assert first.state == second.state == "done", first.row["error"]
    assert len(loads) == 5  # three for the first, two more for the second: its first session takes what is loaded
    assert first.row["timing_processes"] == 3
    assert {t["session"] for t in first.timings} == {0, 1, 2}
    assert first.row["latency_ms_p50_low"] < first.row["latency_ms_p50"] < first.row["latency_ms_p50_high"]  # type: ignore[operator]
    assert first.row["canary_drift"] == 0 and second.row["canary_drift"] != 0
    assert second.row["canary_ratio"] > 0  # type: ignore[operator]


def test_the_columns_are_those_of_the_stages(tmp_path: Path, tiny_checkpoint: Path) -> None:
    timing = {**QUICK, "output_tokens": 4, "repeats": 12, "max_repeats": 12}
    plan = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing).plans[0]
    done = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    row: Any = done.row
    assert row["ttft_ms_p50"] < row["e2e_ms_p50"] < row["latency_ms_p50"] * 1.5
    assert row["latency_ms_p90"] is None and row["latency_tail_percentile"] >= 0.5
    assert row["energy_missing"] == "no GPU" and row.get("energy_j_per_token") is None
    assert row.get("impossible") is None, "nothing is known of this processor's peak"
    assert row["timing_tokens_per_s"] == pytest.approx(4 * row["timing_samples_per_s"])


def hold(path: str, holding: Any) -> None:
    from vlmprof.measure.timing_lock import exclusive_timing

    with exclusive_timing(True, lambda seconds: None, Path(path)):
        holding.set()
        multiprocessing.Event().wait()


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    from vlmprof.measure.timing_lock import exclusive_timing

    spawn = multiprocessing.get_context("spawn")
    holding, path = spawn.Event(), tmp_path / "lock"
    holder = spawn.Process(target=hold, args=(str(path), holding), daemon=True)
    holder.start()
    assert holding.wait(60)

    def told(seconds: float) -> None:
        holder.kill()  # -9: the kernel lets go for it

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("vlmprof.measure.timing_lock.REPORT_EVERY_S", 0.3)
        with exclusive_timing(True, told, path) as waited:
            assert waited >= 0.3
    holder.join()
    with exclusive_timing(True, lambda seconds: None, path) as waited:
        assert waited < 0.25
    with exclusive_timing(False, lambda seconds: None, path) as waited:
        assert waited == 0.0


def compute(path: str, holding: Any) -> None:
    from vlmprof.measure.timing_lock import working_outside_timing

    with working_outside_timing(True, lambda seconds: None, Path(path)):
        holding.set()
        multiprocessing.Event().wait()


def test_nothing_is_timed_while_another_trial_computes_on_the_same_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmprof.measure import timing_lock

    monkeypatch.setattr(timing_lock, "REPORT_EVERY_S", 0.3)
    spawn = multiprocessing.get_context("spawn")
    holding, path = spawn.Event(), tmp_path / "lock"
    scorer = spawn.Process(target=compute, args=(str(path), holding), daemon=True)
    scorer.start()
    assert holding.wait(60)
    with timing_lock.working_outside_timing(True, lambda seconds: None, path):
        pass  # any number may compute
    with timing_lock.exclusive_timing(True, lambda seconds: scorer.kill(), path) as waited:
        assert waited >= 0.3
        told: list[float] = []

        def give_up(seconds: float) -> None:
            told.append(seconds)
            raise TimeoutError

        with pytest.raises(TimeoutError), timing_lock.working_outside_timing(True, give_up, path):
            pass
        assert told
    scorer.join()


def time_a_plan(plan: Any, timing: Any, answers: Any) -> None:
    """In a process of its own: run a plan, and say when blocks are timed."""
    executor = Executor(BatchSizer(), gpus=0, name="test")
    done = executor.run(plan, lambda progress: timing.set() if progress.phase == "time" else None)
    answers.send((done.state, dict(done.row), [dict(row) for row in done.timings]))


def test_a_stopped_process_is_a_disturbance_and_its_block_is_in_no_estimate(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    timing = {**QUICK, "output_tokens": 8, "repeats": 60, "max_repeats": 60}
    plan = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing).plans[0]
    spawn = multiprocessing.get_context("spawn")
    timed, (receiver, sender) = spawn.Event(), spawn.Pipe(duplex=False)
    process = spawn.Process(target=time_a_plan, args=(plan, timed, sender), daemon=True)
    process.start()
    assert timed.wait(60) and process.pid is not None
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.76)
    os.kill(process.pid, signal.SIGCONT)
    assert receiver.poll(60)
    state, row, rows = receiver.recv()
    process.join()
    assert state == "done" and disturbance.PAUSED in row["disturbed_by"]
    paused = {generation["block"] for generation in rows if disturbance.PAUSED in (generation["disturbed"] or "")}
    assert len(paused) == 1
    usual = [g["end_to_end_ms"] for g in rows if not g["canary"] and g["block"] not in paused]
    assert row["timing_samples_per_s"] == pytest.approx(1e3 / statistics.fmean(usual), rel=0.3)


def test_a_pause_is_left_out_even_where_the_host_is_always_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, lambda n: 1000.0 if 9 <= n - 15 <= 16 else 100.0)
    script.causes = iter(["busy", f"{disturbance.PAUSED} (76%)", *["busy"] * 100])
    kept = session().kept
    assert {value.ms for block in kept for value in block.times} == {100.0}


def unreadable() -> Any:
    raise OSError("truncated file")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_sample_that_cannot_be_timed_is_named_and_another_one_takes_its_place(
    tmp_path: Path, tiny_checkpoint: Path, batch: int
) -> None:
    timing = {**QUICK, "batch_size": batch, "requests": 3}
    plan = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing).plans[0]
    resolved = resolve(plan)
    drawn = drawn_evenly(longest_first(replace(resolved, settings=()), samples_of(resolved)), 3 * batch)
    example = next(one for one in subset_of(resolved) if one.id == drawn[1].example.id)
    size = {"width": example.picture.width, "height": example.picture.height}
    spoilt = replace(example, picture=Picture(**size, load=unreadable))
    everything = resolved.task.examples
    task = replace(
        resolved.task, examples=lambda split: [spoilt if e.id == spoilt.id else e for e in everything(split)]
    )
    model = resolved.family.load(resolved.checkpoint, "cpu")
    outcome = run_trial(replace(resolved, task=task), LoadedModel(model), BatchSizer(), lambda progress: None)
    assert {len(timed.generations) for timed in outcome.timed} == {batch}
    assert {timed.request for timed in outcome.timed} == {0, 1, 2}
    assert "truncated file" in outcome.missing[f"timing of sample {spoilt.id}"]


def test_requests_are_drawn_over_all_lengths_and_are_the_same_for_every_configuration(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[str]] = []

    def look(self: TimingPass, *args: Any) -> Any:
        timed.append([prompt.text for request in self.requests for prompt in request])
        raise UserError("enough")

    monkeypatch.setattr(TimingPass, "run", look)
    tasks = [{"name": "shapes_qa", "samples": 40, "seed": 3}]
    timing = {**QUICK, "requests": 8}
    job = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing, tasks=tasks)
    executor = Executor(BatchSizer(), gpus=0, name="test")
    for plan in job.plans:
        executor.run(plan, lambda progress: None)
    assert len(timed) == len(job.plans) > 2 and all(texts == timed[0] for texts in timed)
    resolved = resolve(job.plans[0])
    ordered = longest_first(replace(resolved, settings=()), samples_of(resolved))
    ranks = [next(i for i, sample in enumerate(ordered) if sample.prompt.text == text) for text in timed[0]]
    assert max(ranks) - min(ranks) >= 25, "not drawn over all lengths"


def test_without_orders_only_what_is_not_recorded_is_timed_alone() -> None:
    def exclusive(asked: bool | str, described: dict[str, str]) -> bool:
        engine = cast(Any, SimpleNamespace(describe=lambda: described))
        work = TimingRequests(requests=[[]], length=3, configured=nullcontext, engine=engine)
        timing = replace(TIMING, exclusive=asked)
        return TimingPass(timing, cast(Any, Cpu()), work)._exclusive()

    everything = {"engine": "graphs", "recorded_stages": "vision, connector, prefill, decode"}
    assert not exclusive("auto", everything)
    assert exclusive("auto", {"engine": "eager"})
    assert exclusive("auto", {"engine": "graphs", "recorded_stages": "vision, connector, decode"})
    assert exclusive(True, everything) and not exclusive(False, {"engine": "eager"})


@pytest.mark.parametrize(("asked", "alone"), [("auto", True), (True, True), (False, False)])
def test_on_a_cpu_warm_up_disturbs_no_other_pass_either(
    monkeypatch: pytest.MonkeyPatch, asked: bool | str, alone: bool
) -> None:
    script, held = Script(monkeypatch, lambda n: 100.0), []

    @contextmanager
    def lock(exclusive: bool, waiting: Any) -> Iterator[float]:
        held.append(script.ran)
        yield 1.5

    monkeypatch.setattr(trial_timing, "exclusive_timing", lock)
    done = session(replace(TIMING, exclusive=asked))
    assert held == ([0] if alone else []) and done.exclusive == alone
    assert done.waited_s == (1.5 if alone else 0.0)


class Meter:
    """Stands in for the GPU: a counter that gains 3 J with every reading."""

    def __init__(self) -> None:
        self.joules = 0.0

    def energy_joules(self) -> float:
        self.joules += 3.0
        return self.joules

    def read(self) -> None:
        """Nothing disturbs it."""


@pytest.mark.parametrize("seconds", [1e-9, 0.05])
def test_energy_is_that_of_the_timed_blocks_and_of_no_more_than_the_counter_needs(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Canaries are left out: the counter is read before each of them."""
    script = Script(monkeypatch, lambda n: 100.0)
    script.causes = iter(["", "throttled"])
    monkeypatch.setattr(trial_timing, "open_gpu", lambda device: (Meter(), ""))
    done = session(replace(TIMING, energy_seconds=seconds))
    assert done.energy is not None
    blocks = [block.energy for block in done.kept if block.energy]
    assert len(blocks) == len(done.kept) == 3 and all(energy.joules == 3.0 for energy in blocks)
    timed = sum(len(block.timed) for block in done.kept)
    if seconds < 0.01:
        assert (done.energy.joules, done.energy.rounds) == (9.0, timed)
    else:
        assert done.energy.joules == 12.0 and done.energy.rounds > timed
        assert done.energy.seconds >= seconds


def test_a_trial_without_a_sample_that_can_be_timed_fails_and_names_the_first(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    resolved = resolve(small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=QUICK).plans[0])
    everything = resolved.task.examples
    spoilt = Picture(width=90, height=90, load=unreadable)
    task = replace(resolved.task, examples=lambda split: [replace(e, picture=spoilt) for e in everything(split)])
    model = resolved.family.load(resolved.checkpoint, "cpu")
    with pytest.raises(UserError, match=r"none of the 12 samples .*truncated file"):
        run_trial(replace(resolved, task=task), LoadedModel(model), BatchSizer(), lambda progress: None)


@pytest.mark.parametrize("samples", [1, 3, 12])
def test_requests_have_the_job_s_batch_size_and_number_however_few_samples(
    tmp_path: Path, tiny_checkpoint: Path, samples: int
) -> None:
    timing = {**QUICK, "batch_size": 4, "requests": 2}
    tasks = [{"name": "shapes_qa", "samples": samples, "seed": 3}]
    plan = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing, tasks=tasks).plans[0]
    done = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert done.state == "done", done.row
    assert {row["batch_size"] for row in done.timings} == {done.row["timing_batch_size"]} == {4}
    assert {row["request"] for row in done.timings} == {0, 1} and done.row["timing_requests"] == 2
