"""The room of a process, against functions of torch that are as picky as the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlmprof.measure.memory_headroom import MemoryTaken, PhasePeaks, memory_capped, read_headroom, read_memory_taken


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """1,000 bytes: 300 reserved here, 200 taken by others, 500 free."""
    state: dict[str, Any] = {"fraction": 1.0}
    real = torch.cuda._get_device_index  # refuses a device without a number, as the functions below do

    def get(device: Any) -> float:
        real(device)
        return float(state["fraction"])

    def put(fraction: float, device: Any) -> None:
        real(device)
        state["fraction"] = fraction

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", get)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", put)
    return state


def test_a_cpu_has_no_figure() -> None:
    assert read_headroom("cpu") is None


def test_what_others_hold_is_not_usable_and_neither_is_what_the_cap_forbids(gpu: dict[str, Any]) -> None:
    room = read_headroom("cuda")
    assert room and (room.usable_bytes, room.held_bytes, room.total_bytes) == (800, 300, 1000)
    gpu["fraction"] = 0.6
    capped_room = read_headroom("cuda")
    assert capped_room and capped_room.usable_bytes == 600


def test_the_cap_is_put_back_also_on_error(gpu: dict[str, Any]) -> None:
    room = read_headroom("cuda")
    assert room
    with pytest.raises(ValueError, match="inside"), memory_capped("cuda", room, 0.5):
        assert gpu["fraction"] == pytest.approx(0.4)
        raise ValueError("inside")
    assert gpu["fraction"] == 1.0


STAGES = ("preprocess", "transfer", "vision", "connector", "prefill", "decode", "decode", "decode")


def seen(monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], *readings: tuple[int, int]) -> dict[str, int]:
    """What is found of a generation whose stretches took this, as (needed, in use)."""
    taken = iter([MemoryTaken(needed=needed, in_use=in_use) for needed, in_use in (before, *readings)])
    monkeypatch.setattr("vlmprof.measure.memory_headroom.read_memory_taken", lambda device: next(taken))
    peaks = PhasePeaks("cpu")
    peaks.start()
    for stage in STAGES:
        peaks.mark(stage)  # type: ignore[arg-type]
    peaks.stop()
    return peaks.peak_bytes


def test_each_phase_has_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [10, 70, 30, 50, 20, 40, 25]
    found = seen(monkeypatch, (5, 5), *((one, one) for one in readings))
    assert found == {"vision": 70, "prefill": 50, "decode": 40}


def test_a_small_phase_is_not_told_as_large_as_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks lie in those of the vision tower, whose free parts count: it seems to need 124."""
    found = seen(monkeypatch, (20, 10), (20, 10), (124, 90), (124, 50), (124, 50), (124, 30), (124, 30), (124, 30))
    assert found == {"vision": 124, "prefill": 72, "decode": 46}  # 20 before, and 1.3 times what is in use beyond 10


def test_what_was_needed_is_the_largest_phase_whichever_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(monkeypatch, (10, 10), (12, 11), (40, 38), (41, 30), (90, 50), (95, 70), (60, 40), (60, 40))
    assert max(found.values()) == found["decode"] == 95


def test_a_generation_that_took_nothing_more_has_the_floor_in_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(seen(monkeypatch, (10, 10), *[(10, 10)] * 7).values()) == {10}
    assert PhasePeaks("cpu").peak_bytes == {}


@pytest.mark.parametrize(("reserved", "needed"), [(900, 650), (620, 620)])
def test_cached_blocks_that_nobody_uses_are_not_needed(
    monkeypatch: pytest.MonkeyPatch, reserved: int, needed: int
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"inactive_split_bytes.all.peak": 50})
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 600)
    assert read_memory_taken("cuda") == MemoryTaken(needed=needed, in_use=600)
