"""The speed-up of stages: from pairs of one block, against the model without knobs, beside what the work allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import QUICK, small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import OutOfMemory
from vlmprof.records import ComparedWork, StageTimes, StageWork
from vlmprof.trial import timing_pass
from vlmprof.trial.columns.speedup import bound, loaded_with, speedup_columns
from vlmprof.trial.executor import Executor
from vlmprof.trial.outcome import TimedGeneration, TimingBlock, TimingSession

WORK = ComparedWork(
    own=StageWork(vision_flop=10, prefill_flop=50, decode_bytes=40),
    full=StageWork(vision_flop=30, prefill_flop=100, decode_bytes=None),
)


def generation(factor: float, *, request: int = 1, repeat: int = 0, steps: int = 2) -> TimedGeneration:
    stages = StageTimes(
        preprocess_ms=1.0,
        transfer_ms=0.0,
        vision_ms=6.0 * factor,
        connector_ms=4.0 * factor,
        prefill_ms=20.0 * factor,
        step_ms=(3.0 * factor, *[99.0] * (steps - 1))[:steps],
        end_to_end_ms=100.0,
    )
    return TimedGeneration(session=0, block=0, repeat=repeat, request=request, generations=(), stages=stages, redone=0)


def block(own: Sequence[TimedGeneration], full: TimedGeneration | None, disturbed: str = "") -> TimingBlock:
    return TimingBlock(timed=tuple(own), canary=full, disturbed=disturbed, clock_mhz=None, power_limited=False)


def session(blocks: Sequence[TimingBlock], work: ComparedWork | None = WORK) -> TimingSession:
    return TimingSession(
        blocks=tuple(blocks),
        stopped="precision",
        warmup_generations=1,
        warm=True,
        waited_s=0.0,
        seconds=1.0,
        exclusive=True,
        peak=None,
        energy=None,
        energy_missing="",
        operations=None,
        decode_bytes=None,
        host_bound=None,
        work=work,
    )


def canary(factor: float) -> TimedGeneration:
    return generation(factor, repeat=-1, steps=1)


def test_a_machine_that_drifts_changes_nothing() -> None:
    blocks = [block([generation(level), generation(level * 7, request=0)], canary(2 * level)) for level in (1, 3, 9)]
    row: Any = speedup_columns([session(blocks)])
    for stage in ("vision", "prefill", "decode"):
        assert [row[f"speedup_{stage}{end}"] for end in ("_low", "", "_high")] == pytest.approx([2, 2, 2])
    assert (row["speedup_vision_bound"], row["speedup_prefill_bound"], row["speedup_decode_bound"]) == (3, 2, None)


def test_only_blocks_that_timed_the_canary_s_request_count_and_no_disturbed_ones() -> None:
    blocks = [
        block([generation(1.0)], canary(2.0)),
        block([generation(5.0, request=0)], canary(1.0)),
        block([generation(9.0)], canary(1.0), disturbed="throttled"),
        block([generation(1.0)], canary(2.0)),
    ]
    row: Any = speedup_columns([session(blocks)])
    assert row["speedup_prefill"] == pytest.approx(2.0)


def test_one_pair_has_no_interval_and_so_no_value() -> None:
    assert "speedup_prefill" not in speedup_columns([session([block([generation(1.0)], canary(2.0))])])


def test_without_a_canary_there_is_nothing() -> None:
    assert speedup_columns([session([block([generation(1.0)], None)] * 3)]) == {}


def test_an_answer_of_one_token_has_no_decode_step_to_compare() -> None:
    blocks = [block([generation(1.0, steps=0)], canary(2.0))] * 3
    row: Any = speedup_columns([session(blocks)])
    assert "speedup_decode" not in row and row["speedup_decode_bound"] is None
    assert row["speedup_vision"] == pytest.approx(2.0)


def test_work_that_is_not_known_bounds_nothing() -> None:
    blocks = [block([generation(1.0)], canary(2.0))] * 3
    row: Any = speedup_columns([session(blocks, work=None)])
    assert row["speedup_prefill"] == pytest.approx(2.0) and row["speedup_prefill_bound"] is None
    assert bound(WORK, "decode") is None and bound(WORK, "vision") == 3


@pytest.mark.serial
def test_through_a_trial_the_full_model_is_as_fast_as_itself_and_half_of_it_faster(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """No trial of the full model is needed: each row has its own."""
    timing = {**QUICK, "output_tokens": 3, "repeats": 60, "max_repeats": 60}
    knobs = {"active_blocks": [{"keep": 8, "policy": "prefix"}, {"keep": 2, "policy": "prefix"}]}
    job = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing, knobs=knobs)
    executor = Executor(BatchSizer(), gpus=0, name="test")
    full, quarter = (dict(executor.run(plan, lambda progress: None).row) for plan in job.plans)
    row: Any
    for row, prefill, decode in ((full, 1, 1), (quarter, 3.6, 4)):
        assert row["state"] == "done" and row["speedup_loaded_with"] is None
        assert row["speedup_vision_bound"] == 1
        assert prefill <= row["speedup_prefill_bound"] <= decode == row["speedup_decode_bound"]
        assert row["speedup_decode_low"] <= row["speedup_decode"] <= row["speedup_decode_high"]
    # Four times the work on the same host and in the same second: the order is safe, the ratio is the machine's.
    assert quarter["speedup_decode"] > full["speedup_decode"]  # type: ignore[operator]
    assert quarter["speedup_prefill"] > full["speedup_prefill"]  # type: ignore[operator]


def test_a_full_model_that_does_not_fit_is_told_and_the_rest_is_measured(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = timing_pass.generate

    def without_room_for_canaries(*args: Any, max_new_tokens: int, **more: Any) -> Any:
        if max_new_tokens == timing_pass.CANARY_TOKENS:
            raise OutOfMemory(1, "no room")
        return real(*args, max_new_tokens=max_new_tokens, **more)

    monkeypatch.setattr(timing_pass, "generate", without_room_for_canaries)
    timing = {**QUICK, "output_tokens": 3}
    plan = small_job(tmp_path, tiny_checkpoint, measure=["latency"], timing=timing).plans[0]
    row: Any = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None).row
    assert row["state"] == "done" and row["latency_ms_p50"] > 0 and row.get("speedup_prefill") is None
    assert "speedup: the model without knobs does not fit into memory" in row["not_measured"]


def test_knobs_of_loading_are_on_both_sides_and_the_row_says_so(tmp_path: Path, tiny_checkpoint: Path) -> None:
    job = small_job(tmp_path, tiny_checkpoint, knobs={"dtype": ["float32", "bfloat16"], "max_crops": [1]})
    assert [loaded_with(plan) for plan in job.plans] == ["dtype=float32", "dtype=bfloat16"]
    assert loaded_with(small_job(tmp_path, tiny_checkpoint).plans[0]) is None
