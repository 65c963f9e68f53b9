"""Disks that fail now and then, and one that two drivers share, of which the first was stopped and believed dead."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.failing_disk import COMPILER, FailingDisk, run
from tests.faults.ledger_checks import audit
from tests.faults.processes import MARK, end, left
from tests.faults.sweep import ROOT, Driver, Sweep, environment
from tests.faults.writers import SAMPLES, require_whole
from vlmprof.store import tables
from vlmprof.store.ledger import FINISHED, read_states

pytestmark = pytest.mark.serial
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler: calls of libc are replaced")
WRITE = """
import sys
from pathlib import Path
from tests.faults.writers import write_one
from vlmprof.errors import StoreError
from vlmprof.store.collector import Collector
from vlmprof.store.ledger import FINISHED, read_states

folder, kept = Path(sys.argv[1]), set()
try:
    collector = Collector(folder, "written", wait_s=5)
    collector.open_run([], {})
    for trial in [f"t{number:02d}" for number in range(12)]:
        if read_states(folder).get(trial) not in FINISHED:
            write_one(collector, trial)
        print(trial, flush=True)
except (StoreError, OSError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    value = f"disk-{secrets.token_hex(4)}"
    yield value
    end(value)


@needs_compiler
def test_what_a_writer_believes_it_kept_is_there_whatever_call_fails(tmp_path: Path) -> None:
    """A process that writes is started again and again, on a disk that fails twelve times."""
    folder, believed = tmp_path / "failing" / "results", set[str]()
    disk = FailingDisk(tmp_path, tmp_path / "failing", most=12, per_thousand=40)
    command = [sys.executable, "-c", WRITE, str(folder)]
    for _ in range(40):
        done = subprocess.run(
            command, cwd=ROOT, env={**environment(), **disk.environment}, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        believed |= set(done.stdout.split())
        there = require_whole(folder) if (folder / "ledger.jsonl").is_file() else set()
        assert believed <= there, f"lost: {believed - there}; after {disk.faults()}"
        if done.returncode == 0:
            break
    assert believed == {f"t{number:02d}" for number in range(12)}
    assert len(disk.faults()) >= 3, disk.faults()
    assert len(tables.read(folder, "samples")) == 12 * SAMPLES
    assert {state in FINISHED for state in read_states(folder).values()} == {True}


@needs_compiler
@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_a_sweep_on_a_disk_that_fails_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    report = run(tmp_path, 15)
    assert sum(report.faults.values()) == 15
    assert report.sound, report


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_driver_that_stood_still_for_a_minute_writes_nothing_more(
    tmp_path: Path, tiny_checkpoint: Path, mark: str
) -> None:
    """On a file system that both see, and the second one is at work when the first wakes up."""
    calm = Sweep(tmp_path / "calm", tiny_checkpoint, samples=8, configurations=3)
    with_mark = {**environment(), MARK: mark}
    alone = Driver(calm, {**with_mark, **calm.environment}, "--inline")
    alone.start()
    assert alone.wait(280) == 0, alone.said()
    shared = Sweep(tmp_path / "shared", tiny_checkpoint, samples=8, configurations=3)
    first, second = (
        Driver(shared, {**with_mark, **shared.environment}, "--inline", module="tests.faults.shared_disk", log=log)
        for log in ("first.log", "second.log")
    )
    shared.pace(0.05)
    first.start()
    _wait_for(lambda: shared.answers() > 0 or shared.finished() > 0, first)
    shared.pace(0.2)
    process = first.process()
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    before = shared.answers()
    second.start()
    _wait_for(lambda: shared.answers() > before, second)
    assert time.monotonic() - stopped > 15, "the heartbeat had not stood still for long enough"
    while time.monotonic() - stopped < 60:
        assert second.ended() is None, second.said()
        time.sleep(0.2)
        if shared.answers() >= 2.5 * 8:
            shared.pace(2.0)  # the second one must still be at work
    process.send_signal(signal.SIGCONT)
    shared.pace(0.0)
    assert first.wait(280) == 2, first.said()
    assert "taken over by" in " ".join(first.said().split())
    assert second.wait(280) == 0, second.said()
    books = audit(shared.results, calm.results)
    assert books.sound, books
    assert left(mark, 60) == []


def _wait_for(what: Callable[[], bool], driver: Driver) -> None:
    until = time.monotonic() + 280
    while not what():
        assert driver.ended() is None, driver.said()
        assert time.monotonic() < until, f"nothing happened: {driver.said()}"
        time.sleep(0.1)
