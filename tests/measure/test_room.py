"""The room of a process, against functions of torch that are as picky as the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlmprof.measure.room import PhasePeaks, capped, needed_bytes, read_room


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
    assert read_room("cpu") is None


def test_what_others_hold_is_not_usable_and_neither_is_what_the_cap_forbids(gpu: dict[str, Any]) -> None:
    room = read_room("cuda")
    assert room and (room.usable_bytes, room.held_bytes, room.total_bytes) == (800, 300, 1000)
    gpu["fraction"] = 0.6
    capped_room = read_room("cuda")
    assert capped_room and capped_room.usable_bytes == 600


def test_the_cap_is_put_back_also_on_error(gpu: dict[str, Any]) -> None:
    room = read_room("cuda")
    assert room
    with pytest.raises(ValueError, match="inside"), capped("cuda", room, 0.5):
        assert gpu["fraction"] == pytest.approx(0.4)
        raise ValueError("inside")
    assert gpu["fraction"] == 1.0


def test_each_phase_has_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([10, 70, 30, 50, 20, 40, 25])
    monkeypatch.setattr("vlmprof.measure.room.needed_bytes", lambda device: next(readings))
    peaks = PhasePeaks("cpu")
    peaks.start()
    for stage in ("preprocess", "transfer", "vision", "connector", "prefill", "decode", "decode", "decode"):
        peaks.mark(stage)
    peaks.stop()
    assert peaks.found == {"vision": 70, "prefill": 50, "decode": 40}
    peaks.start()
    assert peaks.found == {}


@pytest.mark.parametrize(("reserved", "needed"), [(900, 650), (620, 620)])
def test_cached_blocks_that_nobody_uses_are_not_needed(
    monkeypatch: pytest.MonkeyPatch, reserved: int, needed: int
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"inactive_split_bytes.all.peak": 50})
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 600)
    assert needed_bytes("cuda") == needed
