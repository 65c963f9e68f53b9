"""The clocks: both agree on a device that works behind the host's back, and what a wrong one shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.measure.fake_device import FakeDevice
from vlmprof.decoding import Clock
from vlmprof.errors import Mismatch
from vlmprof.measure.clock import EventClock, HostClock, stage_times
from vlmprof.measure.clock_check import matmul_work, require_accurate_clock
from vlmprof.records import StageTimes

STEPS = 4


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    return FakeDevice(monkeypatch)


def generation(device: FakeDevice, clock: Clock, waits: Callable[[], None] = lambda: None) -> StageTimes:
    """Preprocess 5 ms on the host; 1, 20, 3 and 30 ms on the device; four steps of 2 ms each."""
    clock.start()
    device.host_works(5.0)
    clock.mark("preprocess")
    for stage, ms in (("transfer", 1.0), ("vision", 20.0), ("connector", 3.0), ("prefill", 30.0)):
        device.ask(ms)
        clock.mark(stage)  # type: ignore[arg-type]
    for _ in range(STEPS):
        device.ask(2.0)
        clock.mark("decode")
    waits()
    return clock.stop()


def rounded(stages: StageTimes) -> tuple[float | None, ...]:
    return (
        round(stages.preprocess_ms),
        round(stages.transfer_ms),
        round(stages.vision_ms),
        round(stages.connector_ms or 0),
        round(stages.prefill_ms),
        *(round(gap) for gap in stages.step_ms),
    )


def clocks(device: FakeDevice) -> list[Clock]:
    return [HostClock(device.synchronize), EventClock(device.event, device.synchronize)]


def test_both_clocks_see_where_the_device_spent_its_time(device: FakeDevice) -> None:
    for clock in clocks(device):
        for _ in range(2):  # a clock serves many generations
            stages = generation(device, clock)
            assert rounded(stages) == (5, 1, 20, 3, 30, 2, 2, 2, 2)
            assert stages.stage_sum_ms == pytest.approx(stages.end_to_end_ms, rel=1e-9)


def test_only_the_clock_of_events_lets_the_host_run_ahead(device: FakeDevice) -> None:
    host_ms = []
    for clock in clocks(device):
        began = device.host_ms
        clock.start()
        for _ in range(STEPS):
            device.ask(2.0)
            clock.mark("decode")
        host_ms.append(device.host_ms - began)
        device.synchronize()
    waiting, running_ahead = host_ms
    assert waiting >= STEPS * 2.0 and running_ahead < 0.1


def test_the_names_of_the_field_mean_what_they_mean_there(device: FakeDevice) -> None:
    stages = generation(device, EventClock(device.event, device.synchronize))
    assert stages.ttft_ms == pytest.approx(1 + 20 + 3 + 30, abs=0.1)
    assert stages.e2e_ms == pytest.approx(54 + STEPS * 2, abs=0.1)
    assert stages.tpot_ms == pytest.approx((stages.e2e_ms - stages.ttft_ms) / STEPS)
    assert stages.tpot_ms == pytest.approx(2.0, abs=0.01)
    assert stages.decode_steps == STEPS and stages.decode_ms == pytest.approx(STEPS * 2)


def test_a_stage_without_synchronisation_is_empty_and_the_sum_tells(device: FakeDevice) -> None:
    """The predecessor's fault: readings that do not wait for the device, the last one included."""
    stages = generation(device, HostClock(), waits=lambda: None)
    assert stages.vision_ms < 0.1
    device.synchronize()
    honest = generation(device, HostClock(device.synchronize))
    unsynchronised = StageTimes(
        **{name: getattr(stages, name) for name in StageTimes.__slots__ if name != "end_to_end_ms"},
        end_to_end_ms=honest.end_to_end_ms,
    )
    assert unsynchronised.stage_sum_ms < 0.5 * unsynchronised.end_to_end_ms


def test_known_work_tells_a_clock_that_waits_from_one_that_does_not(device: FakeDevice) -> None:
    def work() -> None:
        device.ask(8.0)

    for clock in clocks(device):
        require_accurate_clock(clock, work, device.synchronize)
    with pytest.raises(Mismatch, match=r"the clock is wrong.*vision 0\.01 ms"):
        require_accurate_clock(HostClock(), work, device.synchronize)


def test_known_work_tells_a_clock_that_counts_a_stage_twice(device: FakeDevice) -> None:
    honest = EventClock(device.event, device.synchronize)

    class Twice:
        start, mark = honest.start, honest.mark

        def stop(self) -> StageTimes:
            stages = honest.stop()
            return replace(stages, vision_ms=2 * stages.vision_ms)

    with pytest.raises(Mismatch, match=r"vision 16\.02 ms"):
        require_accurate_clock(Twice(), lambda: device.ask(8.0), device.synchronize)


@pytest.mark.gpu
def test_cuda_events_and_the_host_s_clock_agree_on_a_gpu() -> None:
    import torch

    from vlmprof.measure.clock import clock_for

    require_accurate_clock(clock_for("cuda"), matmul_work("cuda"), torch.cuda.synchronize)
    require_accurate_clock(HostClock(torch.cuda.synchronize), matmul_work("cuda"), torch.cuda.synchronize)
    with pytest.raises(Mismatch, match="the clock is wrong"):
        require_accurate_clock(HostClock(), matmul_work("cuda"), torch.cuda.synchronize)


def test_marks_of_one_stage_add_up_and_gaps_of_decoding_are_kept() -> None:
    gaps = [("preprocess", 1.0), ("transfer", 1.0), ("vision", 2.0), ("connector", 1.0), ("vision", 3.0)]
    gaps += [("connector", 1.0), ("prefill", 4.0), ("decode", 0.5), ("decode", 0.7)]
    stages = stage_times(gaps, 14.2)  # type: ignore[arg-type]
    assert (stages.vision_ms, stages.connector_ms, stages.step_ms) == (5.0, 2.0, (0.5, 0.7))


def test_a_model_that_cannot_tell_its_connector_has_none() -> None:
    stages = stage_times([("preprocess", 1.0), ("transfer", 1.0), ("connector", 2.0), ("prefill", 4.0)], 8.0)
    assert (stages.vision_ms, stages.connector_ms, stages.tpot_ms) == (2.0, None, None)


def test_a_stage_that_was_never_marked_is_a_mismatch() -> None:
    with pytest.raises(Mismatch, match="no transfer, prefill"):
        stage_times([("preprocess", 1.0), ("connector", 2.0)], 3.0)
