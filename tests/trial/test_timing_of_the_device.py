"""What the host does beside the timed work is kept out of it: varying preprocessing, and Python's garbage collector."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.trial.test_timing_pass import TIMING, Cpu, Script, session
from vlmprof.records import Run
from vlmprof.trial import timing_pass as trial_timing
from vlmprof.trial.timing_pass import CANARY_TOKENS, TimingPass, TimingRequests

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("recorded", ["vision, connector, prefill, decode", "decode", ""])
def test_where_all_else_is_recorded_preprocessing_may_vary(monkeypatch: pytest.MonkeyPatch, recorded: str) -> None:
    """Seen on an H200: 550 generations whose decode steps vary by 0.1 %, because pictures are cut by a busy host."""
    script = Script(monkeypatch, lambda n: 100.0)

    def varying(model: Any, prompts: Any, max_new_tokens: int, **_: Any) -> Run:
        run = script.generate(model, prompts, max_new_tokens)
        assert run.stages is not None
        more = script.ran * 7919 % 41
        changed = replace(run.stages, preprocess_ms=50.0 + more, end_to_end_ms=100.0 + more)
        return run if max_new_tokens == CANARY_TOKENS else replace(run, stages=changed)

    monkeypatch.setattr(trial_timing, "generate", varying)
    engine = cast(Any, SimpleNamespace(describe=lambda: {"recorded_stages": recorded}, end_timing=lambda: None))
    work = TimingRequests(requests=[[]], length=3, configured=nullcontext, engine=engine)
    done = TimingPass(TIMING, cast(Any, Cpu()), work).run(0.0, lambda progress: None)
    count = sum(len(block.timed) for block in done.blocks)
    if recorded.startswith("vision"):
        assert done.stopped == "precision_without_preprocess" and 1.5 * TIMING.repeats <= count < 3 * TIMING.repeats
    else:
        assert done.stopped == "max_repeats"


def test_nothing_is_collected_while_a_generation_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    timing: list[bool] = [False]
    frozen: list[int] = []
    script = Script(monkeypatch, lambda n: 100.0)

    def littering(*args: Any, **more: Any) -> Run:
        timing[0] = True
        for _ in range(2000):
            one: list[Any] = []
            one.append(one)
        frozen.append(gc.get_freeze_count())
        timing[0] = False
        return script.generate(*args, **more)

    monkeypatch.setattr(trial_timing, "generate", littering)
    watch = lambda phase, _: collected.append(timing[0])  # noqa: E731
    gc.callbacks.append(watch)
    try:
        done = session(replace(TIMING, warmup=0, warmup_seconds=0.0))
    finally:
        gc.callbacks.remove(watch)
    timed = sum(len(block.timed) for block in done.blocks) + len(done.blocks)
    assert min(frozen[-timed:]) > 0 and gc.get_freeze_count() == 0 and gc.isenabled()
    assert collected and not any(collected[-2 * len(done.blocks) :])
