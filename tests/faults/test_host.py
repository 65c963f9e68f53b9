"""What a host does to a sweep: its memory monitor kills, a person interrupts, a node takes the collector with it."""

import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.ledger_checks import audit
from tests.faults.processes import MARK, end, kill, left, workers
from tests.faults.sweep import Driver, Sweep, environment
from tests.faults.two_nodes import TwoNodes
from vlmprof.store.ledger import read

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]
BOUND_S = 280
SLOWLY = 0.2
"""Seconds a forward pass: a trial lasts long enough to be hit."""


@pytest.fixture
def mark() -> Iterator[str]:
    value = f"host-{secrets.token_hex(4)}"
    yield value
    end(value)


@pytest.fixture
def calm(tmp_path: Path, tiny_checkpoint: Path, mark: str) -> Sweep:
    """The reference, in a plain loop."""
    sweep = Sweep(tmp_path / "calm", tiny_checkpoint, samples=8, configurations=3)
    driver = Driver(sweep, {**environment(), **sweep.environment, MARK: mark}, "--inline")
    driver.start()
    assert driver.wait(BOUND_S) == 0, driver.said()
    return sweep


@pytest.fixture
def disturbed(tmp_path: Path, tiny_checkpoint: Path) -> Sweep:
    return Sweep(tmp_path / "disturbed", tiny_checkpoint, samples=8, configurations=3)


def wait_for(what: Callable[[], object], driver: Driver, bound_s: float = BOUND_S) -> None:
    deadline = time.monotonic() + bound_s
    while not what():
        assert driver.ended() is None, driver.said()
        assert time.monotonic() < deadline, f"nothing happened: {driver.said()}"
        time.sleep(0.1)


def started(sweep: Sweep) -> int:
    return sum(line["event"] == "started" for line in read(sweep.results))


@pytest.mark.parametrize("short_s", [0.0, 15.0])
def test_a_kill_by_the_host_s_memory_monitor_is_survived(
    calm: Sweep, disturbed: Sweep, mark: str, short_s: float
) -> None:
    """For a moment, and for so long that several Tuners end before they have run anything."""
    memory = psutil.virtual_memory()
    # The nodes and trials themselves need some 3 GiB, and none of them may be what the monitor kills for.
    room, over = (share * 2**30 / memory.total for share in (5, 6))
    threshold = 1 - memory.available / memory.total + room
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    with TwoNodes(mark, environment={**environment(), **disturbed.environment, **monitor}) as two:
        disturbed.pace(SLOWLY)
        driver = Driver(disturbed, two.environment, "--address", two.address)
        driver.start()
        wait_for(lambda: started(disturbed), driver)
        before = {process.pid for there in workers(mark).values() for process in there}
        ballast = bytearray(int(memory.total * over))
        ballast[::4096] = b"\1" * len(ballast[::4096])  # touched, or the kernel gives no memory
        gone = lambda: before - {process.pid for there in workers(mark).values() for process in there}  # noqa: E731
        wait_for(gone, driver)
        time.sleep(short_s)
        del ballast
        disturbed.pace(0.0)
        assert driver.wait(BOUND_S) == 0, driver.said()
    assert audit(disturbed.results, calm.results).sound
    assert left(mark, 60) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_130_and_the_same_command_goes_on(
    calm: Sweep, disturbed: Sweep, mark: str, how: signal.Signals
) -> None:
    with TwoNodes(mark, environment={**environment(), **disturbed.environment}) as two:
        disturbed.pace(SLOWLY)
        driver = Driver(disturbed, two.environment, "--address", two.address)
        driver.start()
        wait_for(lambda: started(disturbed), driver)
        process = driver.process()
        assert process is not None
        process.send_signal(how)
        assert driver.wait(60) == 130, driver.said()
        assert "vlmprof r" in driver.said()  # 'vlmprof run' or 'vlmprof resume'
        assert disturbed.finished() < 3
        disturbed.pace(0.0)
        driver.start()
        assert driver.wait(BOUND_S) == 0, driver.said()
    assert audit(disturbed.results, calm.results).sound


def test_a_lost_folder_ends_the_sweep_with_the_reason(disturbed: Sweep, mark: str) -> None:
    with TwoNodes(mark, environment={**environment(), **disturbed.environment}) as two:
        disturbed.pace(SLOWLY)
        driver = Driver(disturbed, two.environment, "--address", two.address)
        driver.start()
        wait_for(lambda: started(disturbed), driver)
        shutil.move(disturbed.results, disturbed.results.with_name("elsewhere"))  # as a mount that goes away
        disturbed.pace(0.0)
        assert driver.wait(BOUND_S) == 2, driver.said()
        said = driver.said().replace("\n", " ")  # by whichever looks first: a write, or the heartbeat of the lease
        assert "cannot be written to" in said or "is gone: " in said
        assert "Traceback" not in driver.said()
        assert not list(disturbed.results.rglob("*.parquet")), "half a sweep lies in a folder that was made anew"
    assert left(mark, 60) == []


def test_the_collector_and_all_trials_may_die_in_one_instant(calm: Sweep, disturbed: Sweep, mark: str) -> None:
    with TwoNodes(mark, environment={**environment(), **disturbed.environment}) as two:
        disturbed.pace(SLOWLY)
        driver = Driver(disturbed, two.environment, "--address", two.address)
        driver.start()
        wait_for(lambda: started(disturbed), driver)
        struck = [kill(process) for there in workers(mark).values() for process in there]
        assert sum(struck) >= 2
        disturbed.pace(0.0)
        assert driver.wait(BOUND_S) == 0, driver.said()
    assert audit(disturbed.results, calm.results).sound
