"""An instrument that fails leaves its columns empty and says why; the trial is done. What breaks a rule still fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.jobs import QUICK, small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.measure import disturbance, environment, flops, model_counts, nvml, timing_lock
from vlmprof.measure.attempt import attempted
from vlmprof.measure.energy import Energy
from vlmprof.measure.nvml import Gpu
from vlmprof.models.family import AbstractModel
from vlmprof.store.collector import TrialResult
from vlmprof.trial import run as trial_run
from vlmprof.trial import timing_pass
from vlmprof.trial.columns import latency
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import resolve
from vlmprof.trial.run import run_trial
from vlmprof.trial.timing_pass import TimingPass

BROKEN = "the instrument is broken"


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> AbstractModel:
    resolved = resolve(small_job(tmp_path_factory.mktemp("load"), tiny_checkpoint).plans[0])
    return resolved.family.load(resolved.checkpoint, "cpu")


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path, model: AbstractModel) -> Callable[..., TrialResult]:
    def trial(**sections: Any) -> TrialResult:
        knobs = {"knobs": {"moe_top_k": [2]}, **sections}
        (plan,) = small_job(tmp_path, tiny_checkpoint, **knobs).plans
        outcome = run_trial(resolve(plan), LoadedModel(model), BatchSizer(), lambda progress: None)
        return finished(outcome, model, {})

    return trial


def broken(*args: Any, **kwargs: Any) -> Any:
    raise TypeError(BROKEN)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, tuple[str, ...]]] = {
    "flops": (
        lambda patch: patch.setitem(flops.FORMULAS, torch.ops.aten.mm, broken),
        "flops",
        ("flops_first_token", "flops_decode_step"),
    ),
    "the FLOP counter": (
        lambda patch: patch.setattr(trial_run, "count_flops_by_stage", broken),
        "flops",
        ("flops_first_token", "flops_decode_step"),
    ),
    "memory of the score pass": (
        lambda patch: patch.setattr(trial_run, "read_peak", broken),
        "memory",
        ("peak_bytes",),
    ),
    "memory of the timing pass": (
        lambda patch: patch.setattr(timing_pass, "read_peak", broken),
        "memory",
        ("device_peak_bytes",),
    ),
    "reset of the memory": (lambda patch: patch.setattr(timing_pass, "reset_peak", broken), "memory", ("peak_bytes",)),
    "disturbance": (
        lambda patch: patch.setattr(disturbance, "_run_queue_ns", broken),
        "disturbance",
        ("blocks_disturbed", "blocks_disturbed_kept", "disturbed_by"),
    ),
    "ticks": (
        lambda patch: patch.setattr(disturbance, "_processor_ticks", broken),
        "disturbance",
        ("blocks_disturbed",),
    ),
    "host_bound": (
        lambda patch: patch.setattr(timing_pass.host_bound, "measure_host_bound", broken),
        "host_bound",
        ("host_bound", "gpu_busy_share"),
    ),
    "roofline": (lambda patch: patch.setattr(latency, "_hardware", broken), "roofline", ("mfu_prefill", "impossible")),
    "timing lock": (
        lambda patch: patch.setattr(timing_lock, "lock_path", lambda: Path("/proc/none/lock")),
        "timing_lock",
        (),
    ),
    "load": (lambda patch: patch.setattr(os, "getloadavg", broken), "load_average", ("load_average",)),
    "processor": (lambda patch: patch.setattr(environment, "_cpu_name", broken), "cpu", ("cpu",)),
    "commit": (lambda patch: patch.setattr(environment, "commit", broken), "vlmprof_commit", ("vlmprof_commit",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_instrument_leaves_its_columns_empty(
    run: Callable[..., TrialResult], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    inject, instrument, columns = FAULTS[fault]
    inject(monkeypatch)
    result = run(timing={**QUICK, "exclusive": True})
    assert (result.state, result.row["error"]) == ("done", None)
    assert [result.row.get(column) for column in columns] == [None] * len(columns)
    assert f"{instrument}: " in str(result.row["not_measured"]) and (
        BROKEN in str(result.row["not_measured"]) or not columns
    )
    assert result.row["accuracy"] is not None and result.row["latency_ms_p50"] is not None
    assert result.row["effect_moe_top_k"] == "effective"


def test_a_sound_trial_says_nothing(run: Callable[..., TrialResult]) -> None:
    row = run().row
    assert row["not_measured"] is None and row["flops_decode_step"] and row["blocks_disturbed"] is not None


@pytest.mark.parametrize(("hook", "column"), [("_vision_hook", "vit_crops"), ("_network_hook", "lm_image_tokens")])
def test_a_hook_that_fails_leaves_its_count_empty(
    run: Callable[..., TrialResult], monkeypatch: pytest.MonkeyPatch, hook: str, column: str
) -> None:
    name = {"_vision_hook": "vision", "_network_hook": "network"}[hook]
    monkeypatch.setattr(model_counts, hook, lambda counts, *parts: model_counts._guarded(counts, name, broken))
    row = run().row
    assert row[column] is None and row["state"] == "done" and f"counts of {name}: TypeError" in str(row["not_measured"])


def test_experts_that_cannot_be_counted_prove_no_knob(
    run: Callable[..., TrialResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the count nothing shows that the knob did what it says; without the knob the column is only empty."""

    def unlike(counts: Any, index: int) -> Any:
        return model_counts._guarded(counts, "experts", broken)

    monkeypatch.setattr(model_counts, "_router_hook", unlike)
    with pytest.raises(Mismatch):
        run()
    row = run(knobs={"max_crops": [4]}).row
    assert (row["state"], row["experts_per_token"]) == ("done", None)
    assert "counts of experts: TypeError" in str(row["not_measured"])


def timing(model: Any) -> TimingPass:
    made = TimingPass.__new__(TimingPass)
    made.model, made.missing, made.energy_missing, made.pauses = model, {}, "", None
    made.timing = SimpleNamespace(energy_seconds=0.01)  # type: ignore[assignment]
    made.requests, made.length = [[]], 2
    return made


def test_what_only_a_gpu_has_is_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy, operations and bytes of a step, with a driver and a model that refuse."""
    on_gpu = timing(SimpleNamespace(device="cuda", decoder=None, synchronize=lambda: None))
    monkeypatch.setattr(timing_pass, "generate", broken)
    assert on_gpu._work() == (None, None)
    assert set(on_gpu.missing) == {"operations", "roofline"}
    on_gpu.gpu = SimpleNamespace(energy_joules=broken)  # type: ignore[assignment]
    assert on_gpu._joules() is None and on_gpu._energy([]) is None
    assert BROKEN in on_gpu._why_no_energy()


@pytest.mark.parametrize(("pauses", "windows"), [((0, 0), 1), ((0, 2, 2, 2), 2), ((0, 2, 2, 4), 2)])
def test_a_window_of_energy_with_a_pause_in_it_is_measured_again_and_then_left_out(
    monkeypatch: pytest.MonkeyPatch, pauses: tuple[int, ...], windows: int
) -> None:
    """Seconds that the process has been stopped so far, at both ends of each window of 10 s after the timed blocks."""
    readings = [
        disturbance.DisturbanceReading(
            at_ns=round(n * 1e10), waited_ns=None, stolen_ticks=None, all_ticks=None, gpu=None, alloc_retries=0,
            foreign_bytes=0, paused_ns=round(paused * 1e9),
        )
        for n, paused in enumerate(pauses)
    ]  # fmt: skip
    on_gpu = timing(SimpleNamespace(device="cuda", synchronize=lambda: None))
    on_gpu.gpu, left = object(), iter(readings)  # type: ignore[assignment]
    monkeypatch.setattr(TimingPass, "_disturbance", lambda self: next(left))
    measured = iter([Energy(joules=float(n), seconds=10.0, rounds=7) for n in range(3)])
    monkeypatch.setattr(timing_pass, "measure_energy", lambda *arguments: next(measured))
    found = on_gpu._more_energy(5.0)
    assert next(left, None) is None and next(measured).joules == windows
    if pauses[-1] > pauses[-2]:
        assert found is None and "the process was stopped (20%)" in on_gpu._why_no_energy()
    else:
        assert found is not None and found.joules == windows - 1


def test_a_binding_that_lacks_a_name_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Gpu(SimpleNamespace(), None).read()
    assert (reading.throttled_ns, reading.sm_clock_mhz, reading.processes) == (None, None, None)
    assert Gpu(SimpleNamespace(), None).energy_joules() is None
    odd = SimpleNamespace(nvmlInit=broken)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", odd)
    assert nvml.open_gpu("cuda") == (None, f"NVML: TypeError: {BROKEN}")


def test_a_gpu_without_an_identity_has_an_empty_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(environment, "_gpu_state", broken)
    missing: dict[str, str] = {}
    row = environment.environment("cuda", missing)
    assert (row["device"], row["gpu_uuid"], row["gpu_driver"]) == ("NVIDIA H200", None, None)
    assert set(missing) == {"gpu_uuid", "gpu_driver"}


@pytest.mark.parametrize("error", [Mismatch("not what was planned"), OutOfMemory(1, "no room")])
def test_rules_of_truth_pass_through(error: Exception) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        attempted("anything", {}, fails)
