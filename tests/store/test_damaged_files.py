"""Small files of a results folder with anything in them: never fatal, never believed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.builders import trial_row
from vlmprof.analyze import watch_state
from vlmprof.analyze.status import status
from vlmprof.analyze.watch_state import Watcher, standing
from vlmprof.errors import StoreError
from vlmprof.store import compaction, lease, ledger_log, tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.filesystem import results_folder
from vlmprof.store.heartbeat import HEARTBEAT, SILENT_S, Heartbeat, read_heartbeat, write_heartbeat
from vlmprof.store.ledger import Ledger, read
from vlmprof.store.process_identity import ProcessIdentity

SOUND = {"time": 1.0, "beat": 1, "running": {}}
TORN = {
    "zeros": bytes(300),
    "nothing": b"",
    "half": b'{"time": 1.0, "be',
    "no text": b"\xff\xfe{}",
    "brackets": b"[" * 100_000,
    "a list": b"[1]",
    "a number": b"7",
    "null": b"null",
    "a text for a time": json.dumps({**SOUND, "time": "now"}).encode(),
    "no time": json.dumps({**SOUND, "time": float("nan")}).encode(),
    "without end": json.dumps({**SOUND, "time": float("inf")}).encode(),
    "a truth for a number": json.dumps({**SOUND, "beat": True}).encode(),
    "a list for a trial": json.dumps({**SOUND, "running": {"a": [1]}}).encode(),
    "a number for trials": json.dumps({**SOUND, "running": 7}).encode(),
    "a text for a total": json.dumps(
        {**SOUND, "running": {"a": {"name": "x", "phase": "score", "done": 1, "total": "many", "seconds": 1.0}}}
    ).encode(),
    "other keys": json.dumps({**SOUND, "more": 1}).encode(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["a"])
    ledger.append("started", trial="a")
    ledger.close()
    return tmp_path


@pytest.mark.parametrize("content", TORN.values(), ids=list(TORN))
def test_a_torn_heartbeat_is_no_heartbeat(folder: Path, content: bytes) -> None:
    (folder / HEARTBEAT).write_bytes(content)
    assert read_heartbeat(folder) is None
    assert status(folder).sign == "none"
    assert Watcher(folder).look().left is None
    assert status(folder).lines() and standing(folder).to_json()


CLAIMS = {
    **{name: content for name, content in TORN.items() if b"running" not in content},
    "text for a process": b'{"pid": "1\\u0000", "kernel": ["x"], "born": 7, "host": null}',
    "a time that is none": b'{"time": "yesterday", "released": false}',
    "a time without a zone": b'{"time": "2026-01-01T00:00:00"}',
    "a time to come": b'{"time": "2999-01-01T00:00:00+00:00"}',
}


@pytest.mark.parametrize("content", CLAIMS.values(), ids=list(CLAIMS))
def test_a_torn_claim_or_lease_heartbeat_ends_no_run_and_names_a_holder_all_the_same(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's lock says that nobody writes here; what a dead writer left is only read for its epoch."""
    claims = folder / lease.CLAIMS
    claims.mkdir(exist_ok=True)
    (claims / "000007.claim").write_bytes(content)
    (claims / "000007.beat").write_bytes(content)
    assert "another sweep" in str(lease.read_claims(results_folder(folder)).holder)
    monkeypatch.setattr(lease, "TIMINGS", lease.LeaseTimings(beat_s=0.05, stale_s=0.3, poll_s=0.1))
    collector = Collector(folder, "x", wait_s=1)
    assert collector.open_run(["a"], {}) == set()
    collector.close()


def test_a_time_that_is_none_is_told_as_such() -> None:
    here = asdict(ProcessIdentity.this_process())
    for beat, said in (
        ("yesterday", "is damaged"),
        ("2026-01-01", "is damaged"),
        ("2999-01-01T00:00:00+00:00", "future"),
    ):
        assert said in str(ProcessIdentity.read(json.dumps(here).encode(), beat))


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_dead_sweep_whose_clock_was_ahead_is_not_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_heartbeat(folder, Heartbeat(time=time.time() + 7200, beat=3))
    now = status(folder)
    assert now.sign == "silent" and now.cut_off == ("a",)
    assert "dated in the future" in now.life
    monkeypatch.setattr(watch_state, "BEAT_S", 0.01)
    assert standing(folder).status.sign == "silent"


def test_a_running_sweep_whose_clock_is_ahead_is_seen_to_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beat(seconds: float) -> None:
        write_heartbeat(folder, Heartbeat(time=time.time() + 7200, beat=4))

    write_heartbeat(folder, Heartbeat(time=time.time() + 7200, beat=3))
    monkeypatch.setattr(watch_state.time, "sleep", beat)
    assert standing(folder).status.sign == "alive"


def test_who_watches_waits_for_a_change_no_longer_than_for_any_heartbeat(folder: Path) -> None:
    write_heartbeat(folder, Heartbeat(time=4e9, beat=3))
    clock = [0.0]
    watcher = Watcher(folder, clock=lambda: clock[0])
    assert watcher.look().status.sign == "alive"
    clock[0] = SILENT_S + 1
    assert watcher.look().status.sign == "silent"


# --- a disk that does not take what it was given ----------------------------------------------------------------------


def broken(call: Callable[..., object], *, after: int = 0) -> Callable[..., object]:
    """The same call, which fails with EIO once it has been made so often."""
    left = [after]

    def failing(*arguments: object) -> object:
        if left[0] <= 0:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        return call(*arguments)

    return failing


def test_a_line_whose_fsync_failed_does_not_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "ledger.jsonl").read_bytes()
    ledger = Ledger(folder)
    monkeypatch.setattr(ledger_log.os, "fsync", broken(os.fsync))
    with pytest.raises(OSError, match="Input/output error"):
        ledger.append("done", trial="a")
    assert (folder / "ledger.jsonl").read_bytes() == before and ledger.states == {"a": "started"}
    monkeypatch.undo()
    ledger.append("failed", trial="a", error="x")
    assert [line["event"] for line in read(folder)] == ["sweep", "started", "failed"]
    ledger.close()


def test_a_line_that_cannot_be_taken_back_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(folder, "x", wait_s=1)
    monkeypatch.setattr(ledger_log.os, "fsync", broken(os.fsync))
    log = collector._ledger._log

    class Stubborn:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def truncate(self, size):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(log, "_file", Stubborn(log._file))
    with pytest.raises(StoreError, match="its last line could not be taken back"):
        collector.open_run(["a"], {})
    monkeypatch.undo()
    collector.close()


def test_a_segment_whose_folder_could_not_be_synced_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a mount that other hosts see: the rename has happened when the fsync of the folder fails."""
    monkeypatch.setattr("vlmprof.store.filesystem.seen_by_other_hosts", lambda folder: True)
    ledger = Ledger(tmp_path, epoch=1)
    ledger.append("sweep", name="x", trials=["a"])
    monkeypatch.setattr("vlmprof.store.filesystem.sync_folder", broken(lambda folder: None))
    with pytest.raises(OSError, match="Input/output error"):
        ledger.append("done", trial="a")
    assert [line["event"] for line in read(tmp_path)] == ["sweep"]
    monkeypatch.undo()
    ledger.close()


# --- a name that is no file -------------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["ledger.jsonl", HEARTBEAT, "job.yaml"])
def test_a_pipe_in_the_place_of_a_file_is_told_and_waited_for_by_nobody(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(StoreError, match=f"{name} is a named pipe"):
        Collector(folder, "x", wait_s=1)
    assert read_heartbeat(folder) is None


@pytest.mark.parametrize("name", ["trials", "ledger.jsonl", ".writer"])
def test_no_part_of_a_results_folder_is_a_link_out_of_the_storage_root(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "mine").mkdir(parents=True)
    outside.mkdir()
    target = outside / name
    target.touch() if name.endswith(".jsonl") else target.mkdir()
    (root / "mine" / name).symlink_to(target)
    monkeypatch.setenv("VLMPROF_STORAGE", str(root))
    with pytest.raises(StoreError, match="leads by a link out of"):
        Collector(root / "mine", "x", wait_s=1)
    monkeypatch.delenv("VLMPROF_STORAGE")
    Collector(root / "mine", "x", wait_s=1).close()


# --- merged tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 40), lambda path: path.write_bytes(bytes(900))])
def test_trials_whose_merged_table_is_damaged_run_again_and_nothing_else_fails(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MERGE_BATCH", 2)
    collector, trials = Collector(tmp_path, "x", wait_s=1), [f"t{number}" for number in range(5)]
    collector.open_run(trials, {})
    for trial in trials:
        row = {**trial_row({"max_crops": 1}), "trial": trial, "samples": 0}
        collector.finish(TrialResult(trial=trial, knobs=("max_crops",), state="done", row=row))
    collector.close()
    merged = sorted((tmp_path / "trials").glob("merged-*"))
    assert len(merged) == 2
    damage(merged[0])
    again = Collector(tmp_path, "x", wait_s=1)
    lost = set(trials) - again.open_run(trials, {})
    assert lost == {"t0", "t1"}
    assert status(tmp_path).counts["waiting"] == 2
    for trial in sorted(lost):
        row = {**trial_row({"max_crops": 1}), "trial": trial, "samples": 0}
        again.finish(TrialResult(trial=trial, knobs=("max_crops",), state="done", row=row), again.begin(trial).attempt)
    again.close()
    assert sorted(tables.read(tmp_path, "trials")["trial"]) == trials
