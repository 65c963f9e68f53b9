"""A batch-size cache that is damaged, or that cannot be written: measured again, never fatal, never believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.batch_size.devices import GIB, Device, demand_of, question
from tests.batch_size.test_sizer import settle
from vlmprof.batch_size import cache
from vlmprof.batch_size.cache import CacheFile, summaries
from vlmprof.batch_size.sizer import BatchSizer

DEMAND = demand_of(blocks=2.0)


def edited(line: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(line), **values}).encode()


DAMAGE = {
    "zeros": lambda line: bytes(len(line)),
    "half": lambda line: line[: len(line) // 2],
    "brackets": lambda line: b"[" * 100_000,
    "no text": lambda line: b"\xff\xfe",
    "a text for a size": lambda line: edited(line, size="many"),
    "no number": lambda line: edited(line, until=float("nan"), seconds=float("inf")),
    "a truth for a token": lambda line: edited(line, token=True),
    "a text for demands": lambda line: edited(line, demand="all", configuration=7),
    "a pair of three": lambda line: edited(line, demand=[[1, 2, 3]], requester=[]),
    "a name too many": lambda line: edited(line, more=1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_lines_are_measured_again(tmp_path: Path, damage: Any) -> None:
    settle(BatchSizer(tmp_path), Device())
    file = tmp_path / "w.jsonl"
    head, *lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([head, *map(damage, lines)]) + b"\n")
    device = Device()
    # A lease may be among what is left; it is of another asker, and over by this clock.
    assert settle(BatchSizer(tmp_path, clock=lambda: 4e9), device) == settle(BatchSizer(), Device())
    assert device.probes and len(list(summaries(tmp_path))) == 1


def a_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "w.jsonl")


def a_folder_in_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "w.jsonl").mkdir()


def no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rmdir()
    folder.write_text("a file")


def a_disk_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache.os, "fsync", fail)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", [a_pipe, a_folder_in_its_place, no_folder, a_disk_that_fails])
def test_where_the_cache_cannot_be_used_sizes_are_found_without_it(
    tmp_path: Path, fault: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A home that is read-only, a full disk: one line of the log, and no sweep fails for its cache."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    fault(folder, monkeypatch)
    sizer = BatchSizer(folder)
    sizer.adopt({"x-1.jsonl": b"{}\n"})
    assert settle(sizer, Device()) == settle(BatchSizer(), Device())
    assert isinstance(sizer.used(0), dict)
    assert caplog.text.count("is done without") == 1 and "VLMPROF_BATCH_SIZES" in caplog.text


def test_nobody_waits_for_a_lease_of_a_clock_that_was_wrong(tmp_path: Path) -> None:
    ahead, now = BatchSizer(tmp_path, clock=lambda: 1e9 + 86_400), BatchSizer(tmp_path, clock=lambda: 1e9)
    assert ahead.ask(question(DEMAND, 80 * GIB, GIB, requester="one"), {}).action == "probe"
    assert now.ask(question(DEMAND, 80 * GIB, GIB, requester="two"), {}).action == "probe"


def test_what_was_known_stays_known_when_the_disk_fails_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, sizer = Device(), BatchSizer(tmp_path)
    size = settle(sizer, device)
    probes = device.probes

    def fail(self: CacheFile) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(CacheFile, "_apply_new_lines", fail)
    assert settle(sizer, device) == size and device.probes == probes
