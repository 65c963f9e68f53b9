"""The counters of the driver against an NVML that answers as the real one does, and the judgements made of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vlmprof.measure import disturbance, energy, host_bound, nvml, roofline
from vlmprof.measure.disturbance import DisturbanceReading, causes
from vlmprof.measure.host_bound import HostAheadClock, HostBound, union_ms
from vlmprof.records import StageTimes


class FakeNvml:
    """What is used of ``pynvml``: counters that only grow, and errors where a board does not support a question."""

    NVML_SUCCESS, NVML_CLOCK_SM = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules, self.fields, self.pids, self.mig = 1_000_000, {269: 5, 270: 0, 271: 0, 74: 9}, [77], [0, 0]
        self.unsupported: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in self.unsupported:
            raise self.NVMLError("Not Supported")
        return getattr(self, f"_{name.removeprefix('nvmlDevice')}")

    def _GetTotalEnergyConsumption(self, handle: str) -> int:
        return self.millijoules

    def _GetFieldValues(self, handle: str, wanted: list[int]) -> list[Any]:
        return [
            SimpleNamespace(
                fieldId=field,
                value=SimpleNamespace(ullVal=self.fields.get(field, 0)),
                nvmlReturn=0 if field in self.fields else 3,
            )
            for field in wanted
        ]

    def _GetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def _GetClockInfo(self, handle: str, which: int) -> int:
        return 1980

    def _GetMigMode(self, handle: str) -> list[int]:
        return self.mig


@pytest.fixture
def driver() -> FakeNvml:
    return FakeNvml()


def reading(gpu: nvml.Gpu | None, **changes: Any) -> DisturbanceReading:
    base = DisturbanceReading(
        at_ns=0,
        waited_ns=0,
        stolen_ticks=0,
        all_ticks=0,
        gpu=gpu.read() if gpu else None,
        alloc_retries=0,
        foreign_bytes=0,
    )
    return replace(base, **changes)


def test_counters_are_read_and_refusals_are_none(driver: FakeNvml) -> None:
    gpu = nvml.Gpu(driver, "handle")
    seen = gpu.read()
    assert (seen.throttled_ns, seen.power_capped_ns, seen.sm_clock_mhz, seen.processes) == (5, 9, 1980, {77})
    assert gpu.energy_joules() == 1000.0
    driver.fields = {}
    driver.unsupported = {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses"}
    seen = gpu.read()
    assert (seen.throttled_ns, seen.processes, gpu.energy_joules()) == (None, None, None)


def test_the_energy_of_a_shared_board_is_nobody_s(driver: FakeNvml) -> None:
    driver.mig = [1, 1]
    assert nvml.Gpu(driver, "handle").energy_joules() is None


def test_energy_is_of_the_window_and_its_rounds(driver: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(energy.time, "monotonic", lambda: clock.now)

    def work() -> None:
        clock.now += 0.4
        driver.millijoules += 120_000

    found = energy.measure_energy(nvml.Gpu(driver, "handle"), work, lambda: None, 5.0)
    assert found is not None
    assert (found.rounds, found.joules) == (13, pytest.approx(13 * 120.0))
    assert found.seconds == pytest.approx(5.2)
    driver.unsupported = {"nvmlDeviceGetTotalEnergyConsumption"}
    assert energy.measure_energy(nvml.Gpu(driver, "handle"), work, lambda: None, 5.0) is None


def test_every_disturbance_is_named_and_a_power_limit_is_none(driver: FakeNvml) -> None:
    gpu = nvml.Gpu(driver, "handle")
    before = reading(gpu)
    assert causes(before, reading(gpu, at_ns=10**9), 1980.0) == ""
    driver.fields[74] += 10**9
    assert causes(before, reading(gpu, at_ns=10**9)) == ""
    driver.fields[270] += 1
    assert causes(before, reading(gpu, at_ns=10**9)) == "throttled"
    driver.fields[270] -= 1
    driver.pids = [77, 78]
    assert causes(before, reading(gpu, at_ns=10**9)) == "1 other process on the GPU"
    driver.pids = [77]
    assert causes(before, reading(gpu, at_ns=10**9), 2100.0) == "clock fell to 1980 MHz"
    assert "retry" in causes(before, reading(gpu, at_ns=10**9, alloc_retries=1))
    assert "memory" in causes(before, reading(gpu, at_ns=10**9, foreign_bytes=65 * 2**20))


def test_a_thread_that_waited_and_a_host_that_was_stolen_are_disturbances() -> None:
    before = reading(None)
    assert causes(before, reading(None, at_ns=10**9, waited_ns=10**7, stolen_ticks=1, all_ticks=100)) == ""
    assert causes(before, reading(None, at_ns=10**9, waited_ns=10**8)) == "waited for a processor (10%)"
    assert causes(before, reading(None, at_ns=10**9, stolen_ticks=5, all_ticks=100)) == "processor time stolen (5%)"


def test_a_real_reading_of_this_machine_has_no_gpu() -> None:
    first = disturbance.read("cpu", None)
    second = disturbance.read("cpu", None)
    assert second.at_ns > first.at_ns and second.gpu is None and second.foreign_bytes == 0
    assert nvml.open_gpu("cpu") == (None, "no GPU")


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("NVIDIA H200", 4.8e12),
        ("NVIDIA H100 80GB HBM3", 3.35e12),
        ("NVIDIA A100-SXM4-40GB", 1.555e12),
        ("NVIDIA L40S", 0.864e12),
        ("NVIDIA L4", 0.3e12),
    ],
)
def test_hardware_is_known_by_its_name(name: str, bandwidth: float) -> None:
    found = roofline.hardware_of(name)
    assert found is not None and found.bytes_per_s == bandwidth


def test_hardware_that_is_not_in_the_table_has_no_bounds() -> None:
    assert [roofline.hardware_of(name) for name in ("CPU", "NVIDIA L40", "Tesla T4")] == [None] * 3


def test_a_stage_that_beats_physics_is_impossible() -> None:
    card = roofline.HARDWARE["H100 80GB HBM3"]
    bounds = {"prefill": roofline.compute_bound_ms(card, 9.895e12, "bfloat16")}
    assert bounds["prefill"] == pytest.approx(10.0)
    assert roofline.compute_bound_ms(card, 9.895e12, "float32") > 19
    assert roofline.impossible_stages({"prefill": 10.1, "decode": 0.0}, bounds) == []
    assert roofline.impossible_stages({"prefill": 0.2}, bounds) == [
        "prefill took 0.200 ms, less than its lower bound of 10.000 ms"
    ]


def test_weights_that_fit_the_cache_have_no_bound() -> None:
    card = roofline.HARDWARE["H100 80GB HBM3"]
    assert roofline.memory_bound_ms(card, 8e6) == 0.0
    assert roofline.memory_bound_ms(card, 3.35e9 + card.cache_bytes) == pytest.approx(1.0)


def test_the_least_bytes_of_a_step_are_the_dense_part_and_the_chosen_experts(tiny_checkpoint: Any) -> None:
    from tests.contracts.knob_contract import demo_checkpoint
    from vlmprof import registry

    decoder = registry.load("models", "demo").load(demo_checkpoint(tiny_checkpoint), "cpu").decoder
    experts = [m for block in decoder.layers for m in block.modules() if type(m).__name__.endswith("Experts")]
    of_experts = sum(w.numel() * w.element_size() for m in experts for w in m.parameters())
    of_all = sum(w.numel() * w.element_size() for block in decoder.layers for w in block.parameters())
    config = decoder.config
    chosen = of_experts * config.num_experts_per_tok // config.num_experts
    assert roofline.least_decode_bytes(decoder) == of_all - of_experts + chosen


def test_the_signs_of_a_waiting_device() -> None:
    assert HostBound(busy_share=None, launch_ahead_gain=None).verdict is None
    assert HostBound(busy_share=0.95, launch_ahead_gain=0.02).verdict is False
    assert HostBound(busy_share=0.5, launch_ahead_gain=None).verdict is True
    assert HostBound(busy_share=0.9, launch_ahead_gain=0.3).verdict is True
    assert union_ms([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4.0


def test_the_sleep_comes_between_prefill_and_steps() -> None:
    told: list[str] = []

    class Inner:
        def start(self) -> None:
            told.append("start")

        def mark(self, stage: str) -> None:
            told.append(stage)

        def stop(self) -> StageTimes | None:
            return None

    clock = HostAheadClock(Inner(), lambda: told.append("sleep"))  # type: ignore[arg-type]
    clock.start()
    clock.mark("prefill")
    clock.mark("decode")
    clock.stop()
    assert told == ["start", "prefill", "sleep", "transfer", "decode"]
    assert host_bound.measure_host_bound("cpu", lambda clock: None, 1.0, 1.0) is None
