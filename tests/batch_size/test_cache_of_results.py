"""Measurements travel with a results folder."""

import os
from pathlib import Path

import pytest

from tests.batch_size.devices import Device, demand_of, question, told
from tests.store.folders import begun, place_of
from vlmprof.batch_size.cache import IN_RESULTS, kept_with_results
from vlmprof.batch_size.sizer import BatchSizer

DEMAND = demand_of(blocks=2.0)


def settle(sizer: BatchSizer, device: Device) -> int:
    asked = question(DEMAND, device.total, device.floor)
    while (answer := sizer.ask(asked, {"gpu": "some"})).action == "probe":
        sizer.tell(told(asked, answer, device.probe(DEMAND, answer.size)))
    return answer.size


@pytest.mark.parametrize("kind", ["disk", "objects"])
def test_what_a_sweep_measured_is_known_where_its_results_are_copied_to(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, here = Device(), BatchSizer(tmp_path / "atlas")
    results = place_of(kind, tmp_path / "results", monkeypatch)
    begun(results)
    with kept_with_results(results, here):
        size = settle(here, device)
    probes = device.probes
    there = BatchSizer(tmp_path / "another user's atlas")
    with kept_with_results(results, there):
        assert settle(there, device) == size and device.probes == probes


def test_a_world_that_was_only_asked_is_kept_too_and_one_that_was_not_is_not(tmp_path: Path) -> None:
    device, sizer = Device(), BatchSizer(tmp_path / "atlas")
    settle(sizer, device)
    for path in (tmp_path / "atlas").glob("*.jsonl"):
        os.utime(path, (0, 0))
    with kept_with_results(tmp_path / "idle", sizer):
        pass
    assert not (tmp_path / "idle" / IN_RESULTS).exists()
    begun(tmp_path / "results")
    with kept_with_results(tmp_path / "results", sizer):
        settle(sizer, device)
    assert [path.name for path in (tmp_path / "results" / IN_RESULTS).iterdir()] == ["w.jsonl"]


def test_a_sweep_that_is_stopped_keeps_what_it_measured(tmp_path: Path) -> None:
    sizer = BatchSizer(tmp_path / "atlas")
    begun(tmp_path / "results")
    with pytest.raises(KeyboardInterrupt), kept_with_results(tmp_path / "results", sizer):
        settle(sizer, Device())
        raise KeyboardInterrupt
    assert list((tmp_path / "results" / IN_RESULTS).iterdir())


def test_a_folder_that_is_gone_is_not_made_anew_and_a_full_disk_hides_no_reason(tmp_path: Path) -> None:
    sizer, results = BatchSizer(tmp_path / "atlas"), tmp_path / "results"
    with kept_with_results(results, sizer):
        settle(sizer, Device())
    assert not results.exists()
    begun(results)
    (results / IN_RESULTS).write_text("in the way")
    with pytest.raises(RuntimeError, match="the reason"), kept_with_results(results, sizer):
        settle(sizer, Device())
        raise RuntimeError("the reason")
