"""Probes on a loaded model and a made-up device: what is run, told, counted, and left behind when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.decoding import unmarked
from vlmprof.engine.vision_cache import VisionFeatureCache, compute_inputs, prepare_each_row
from vlmprof.measure import memory_headroom as rooms
from vlmprof.measure.memory_headroom import MemoryHeadroom
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Prompt
from vlmprof.trial import worst_case_probe
from vlmprof.trial.executor import Executor
from vlmprof.trial.resolve import resolve, subset_of

MIB = 2**20


@dataclass
class Hearing:
    """A sizer that keeps what it hears."""

    inner: BatchSizer = field(default_factory=BatchSizer)
    questions: list[SizeRequest] = field(default_factory=list)
    told: list[ProbeResult] = field(default_factory=list)

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        self.questions.append(request)
        return self.inner.ask(request, about)

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        self.inner.renew(memory_key, configuration, token)

    def tell(self, result: ProbeResult) -> None:
        self.told.append(result)
        self.inner.tell(result)


@dataclass
class MadeUp:
    """100 MiB of which 40 are held; a row takes 10 while its image is looked at."""

    usable: int = 100
    rows: int = 0

    def begin(self, device: str) -> None:
        self.rows = 0

    def taken(self, device: str) -> rooms.MemoryTaken:
        bytes_ = (40 + 10 * self.rows) * MIB
        return rooms.MemoryTaken(needed=bytes_, in_use=bytes_)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    device, see = MadeUp(), LoadedMolmo.see

    def seen(self: Any, batch: Any, *args: Any) -> Any:
        device.rows = len(batch.encodings)
        if 40 + 10 * device.rows > 0.985 * device.usable:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return see(self, batch, *args)

    room = MemoryHeadroom(usable_bytes=100 * MIB, held_bytes=40 * MIB, total_bytes=100 * MIB)
    monkeypatch.setattr(LoadedMolmo, "see", seen)
    monkeypatch.setattr(rooms, "read_memory_taken", device.taken)
    monkeypatch.setattr(rooms, "reset_peak", device.begin)
    monkeypatch.setattr(worst_case_probe, "read_headroom", lambda device: room)
    monkeypatch.setattr(worst_case_probe, "memory_capped", lambda device, room, share: nullcontext())
    monkeypatch.setattr(worst_case_probe, "_gpu_probe_lock", lambda device: nullcontext())
    return device


@pytest.fixture
def plan_of(plan_of: Callable[..., TrialPlan]) -> Callable[..., TrialPlan]:
    return partial(plan_of, measure=["accuracy"])


def run(plan: TrialPlan, sizer: Any) -> Any:
    return Executor(sizer, gpus=0, name="test").run(plan, lambda progress: None)


def test_a_trial_says_how_its_batch_was_found(plan_of: Any, gpu: MadeUp) -> None:
    sizer = Hearing()
    first, second = (run(plan_of(), sizer).row for _ in range(2))
    assert first["batch_source"] == second["batch_source"] == "probed"
    assert first["batch_probes"] == len(sizer.told) > 0 and second["batch_probes"] == 0
    assert first["batch_probes_oom"] == sum(told.outcome != "ran" for told in sizer.told)
    assert first["batches_split"] == second["batches_split"] == 0
    assert first["batch_size"] == second["batch_size"] <= 5
    ran = next(told for told in sizer.told if told.outcome == "ran")
    assert {name for name, _ in ran.phases} == {"vision", "prefill", "decode"}
    assert ran.peak_bytes == max(peak for _, peak in ran.phases)


def test_a_batch_of_the_score_pass_that_does_not_fit_is_counted_and_no_sample_is_lost(
    plan_of: Any, gpu: MadeUp
) -> None:
    sizer = Hearing()
    size = run(plan_of(), sizer).row["batch_size"]
    gpu.usable = 40 + 10 * size - 5  # somebody came beside: what was measured does not fit any more
    after = run(plan_of(), sizer)
    assert after.state == "done" and len(after.samples) == 12
    assert after.row["batches_split"] >= 1 and after.row["batch_size"] < size


@pytest.mark.parametrize("batch", [2, "auto"])
def test_what_is_pinned_or_cannot_be_measured_is_no_probe(plan_of: Any, batch: Any) -> None:
    row = run(plan_of(batch={"size": batch, "audit_samples": 0}), Hearing()).row
    assert (row["batch_probes"], row["batch_probes_oom"], row["batches_split"]) == (0, 0, 0)
    assert row["batch_source"] == (None if batch == 2 else "assumed")


def test_a_probe_that_loses_the_accelerator_tells_nothing_and_another_process_takes_over(
    plan_of: Any, gpu: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    sizer = Hearing(BatchSizer(clock=lambda: now[0]))
    see = LoadedMolmo.see

    def lost(self: Any, batch: Any, *args: Any) -> Any:
        if sizer.questions:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)
        return see(self, batch, *args)

    with monkeypatch.context() as broken, pytest.raises(torch.AcceleratorError):
        broken.setattr(LoadedMolmo, "see", lost)
        run(plan_of(), sizer)
    assert sizer.questions and not sizer.told
    monkeypatch.setattr(worst_case_probe.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds + 5))
    again = run(plan_of(), sizer)
    assert again.state == "done" and again.row["batch_probes"] > 0
    assert now[0] > 0, "the lease of the process that died was not respected"


def prompts_of(plan: TrialPlan, count: int) -> list[Prompt]:
    resolved = resolve(plan)
    return [resolved.task.ask(one, "demo") for one in subset_of(resolved)[:count]]


def test_a_probe_looks_at_every_row_though_they_are_alike(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    resolved = resolve(plan)
    model = resolved.family.load(resolved.checkpoint, "cpu")
    alike = [prompts_of(plan, 1)[0]] * 3
    see, rows = type(model).see, []

    def seen(self: Any, batch: Any, *args: Any) -> Any:
        rows.append(len(batch.encodings))
        return see(self, batch, *args)

    monkeypatch.setattr(type(model), "see", seen)
    features = VisionFeatureCache(0).complete(model, prepare_each_row(model, alike)).features
    assert rows == [3] and torch.equal(features, compute_inputs(model, alike, unmarked).features)


def broken(*args: Any) -> Any:
    raise RuntimeError("NVML: driver/library version mismatch")


@pytest.mark.parametrize("at", ["headroom", "cap", "lock", "peaks", "reset"])
def test_a_reading_of_memory_that_fails_leaves_its_column_and_fails_no_trial(
    plan_of: Any, gpu: MadeUp, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    places = {"headroom": "read_headroom", "cap": "memory_capped", "lock": "_gpu_probe_lock", "reset": "reset_peak"}
    if at == "peaks":
        monkeypatch.setattr(rooms, "read_memory_taken", broken)
    elif at in ("cap", "lock"):
        monkeypatch.setattr(worst_case_probe, places[at], lambda *args: _Failing())
    else:
        monkeypatch.setattr(worst_case_probe, places[at], broken)
    result = run(plan_of(batch={"max": 4, "audit_samples": 0}), Hearing())
    assert result.state == "done" and len(result.samples) == 12, result.row["error"]
    instrument = {"lock": "probe_lock", "reset": "memory"}.get(at, "memory_headroom")
    assert f"{instrument}: RuntimeError: NVML: driver/library version mismatch" in result.row["not_measured"]
    if at in ("headroom", "peaks"):
        assert result.row["batch_source"] == "assumed"


class _Failing:
    def __enter__(self) -> None:
        broken()

    def __exit__(self, *args: object) -> None: ...
