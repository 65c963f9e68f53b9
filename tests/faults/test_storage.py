"""What a results folder goes through: power cuts, kills between any two system calls, full and read-only disks."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sweep import ROOT, environment
from tests.faults.writers import require_whole, result, write_one
from vlmprof.errors import StoreError
from vlmprof.store import tables
from vlmprof.store.collector import Collector
from vlmprof.store.ledger import LEDGER, read, read_states


def written(folder: Path, *trials: str) -> Path:
    collector = Collector(folder, "written", wait_s=1)
    collector.open_run(list(trials), {})
    for trial in trials:
        write_one(collector, trial)
    collector.close()
    return folder


# --- torn files -------------------------------------------------------------------------------------------------------


def test_a_ledger_that_is_cut_anywhere_keeps_its_whole_lines_and_takes_new_ones(tmp_path: Path) -> None:
    whole = (written(tmp_path / "whole", "a", "b") / LEDGER).read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({*range(ends[-3], len(whole), 7), *ends[-3:], *(end + 1 for end in ends[-3:])}):
        folder = tmp_path / "torn"
        folder.mkdir(exist_ok=True)
        (folder / LEDGER).write_bytes(whole[:cut])
        expected = whole[:cut].count(b"\n")
        assert len(list(read(folder))) == expected, "a reader did not pass over the torn line"
        collector = Collector(folder, "written", wait_s=1)
        collector.begin("c")
        collector.close()
        events = [line["event"] for line in read(folder)]
        assert len(events) == expected + 1 and events[-1] == "started", f"cut at byte {cut}"


def test_a_torn_table_is_never_read_and_the_next_write_replaces_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "results", "a")
    good = (folder / "samples/a.parquet").read_bytes()
    (folder / "samples/b.partial").write_bytes(good[: len(good) // 2])  # power went while it was written
    (folder / "samples/b.parquet").write_bytes(good[: len(good) // 2])  # a disk that lied about fsync
    assert require_whole(folder) == {"a"}
    collector = Collector(folder, "written", wait_s=1)
    write_one(collector, "b")
    collector.close()
    assert require_whole(folder) == {"a", "b"}
    assert not list(folder.rglob("b.partial"))


def test_a_line_that_is_damaged_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    ledger = written(tmp_path / "results", "a") / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    ledger.write_bytes(b"".join(lines))
    with pytest.raises(StoreError, match="line 2 is damaged"):
        read_states(tmp_path / "results")


def test_a_writer_may_be_killed_between_any_two_system_calls(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.writers", str(tmp_path / "results"), "15", "7"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = ast.literal_eval(done.stdout)
    assert counts == sorted(counts), "a trial that was done is gone"
    assert counts[-1] > 5


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def _until_refused(collector: Collector) -> tuple[list[str], BaseException]:
    kept: list[str] = []
    for number in range(1000):
        try:
            write_one(collector, f"t{number:03d}", wide=4)
        except (StoreError, OSError) as error:
            return kept, error
        kept.append(f"t{number:03d}")
    raise AssertionError("a thousand trials fit; nothing was tested")


def test_a_full_disk_keeps_what_was_finished_and_room_is_all_it_takes_to_go_on(disk: Path) -> None:
    folder = disk / "results"
    folder.mkdir()
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    collector = Collector(folder, "written", wait_s=1)
    collector.open_run([], {})
    kept, error = _until_refused(collector)
    collector.close()
    assert "No space left" in str(error)
    assert len(kept) > 1
    assert require_whole(folder) == set(kept), "kept before the disk was full, and nothing else"
    ballast.unlink()
    collector = Collector(folder, "written", wait_s=1)
    write_one(collector, "later")
    collector.close()
    assert require_whole(folder) == {*kept, "later"}


def test_a_ledger_line_that_finds_no_room_is_taken_back(disk: Path) -> None:
    folder = disk / "results"
    collector = Collector(folder, "written", wait_s=1)
    write_one(collector, "a")
    before = (folder / LEDGER).read_bytes()
    (disk / "ballast").write_bytes(b"")
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        try:
            while ballast.write(bytes(1024)):
                pass
        except OSError:
            pass
    with pytest.raises((StoreError, OSError), match=r"No space left|only part of a line"):
        collector.open_run(["x" * 12] * 10_000, {})  # a line of 160 kB
    collector.close()
    assert (folder / LEDGER).read_bytes() == before


def test_a_disk_that_becomes_read_only_is_refused_by_name_and_read_all_the_same(disk: Path) -> None:
    folder = written(disk / "results", "a")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert require_whole(folder) == {"a"}
    with pytest.raises(StoreError, match="cannot be written to: Read-only file system"):
        Collector(folder, "written", wait_s=1)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert require_whole(written(folder, "b")) == {"a", "b"}


def test_a_file_system_that_refuses_large_files_is_no_half_written_table(tmp_path: Path) -> None:
    """Without any rights: the kernel refuses to let a file grow beyond a limit, as a quota does."""
    folder = written(tmp_path / "results", "a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            collector = Collector(folder, "written", wait_s=1)
            collector.begin("b")
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
            try:
                collector.finish(result("b", wide=200))
            except (StoreError, OSError) as error:
                code = 42 if "File too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert require_whole(folder) == {"a"}
    assert require_whole(written(folder, "b")) == {"a", "b"}
    assert tables.read(folder, "samples")["trial"].nunique() == 2
