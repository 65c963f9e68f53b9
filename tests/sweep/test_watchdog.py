"""A process that hangs ends itself, and says where; one that comes along is left alone. In processes of their own."""

import subprocess
import sys

import pytest

from vlmprof.sweep.watchdog import EXIT_CODE

pytestmark = pytest.mark.serial  # a second without progress is a hang here, and a busy machine makes seconds long
SCRIPT = """
import ctypes, sys, time
from vlmprof.sweep.watchdog import Watchdog
from vlmprof.trial.progress import Progress

TIMEOUT_S = 1.0

def beat(watchdog, phase):
    watchdog.beat(Progress(phase=phase, done=3, total=9))

def come_along(watchdog):
    ends = time.monotonic() + 2.2 * TIMEOUT_S
    while time.monotonic() < ends:
        beat(watchdog, "score")
        time.sleep(0.05)

def hang(how):
    if how == "python":
        while True:
            time.sleep(0.01)
    ctypes.PyDLL(None).sleep(600)  # a PyDLL call keeps the interpreter's lock

def watched(timeout_s=TIMEOUT_S):
    return Watchdog(timeout_s, lambda why: print(why, flush=True))

"""
HANG = """
with watched() as watchdog:
    come_along(watchdog)
    beat(watchdog, "wait")
    beat(watchdog, "score")
    print("alive", flush=True)
    hang(sys.argv[1])
"""
LEFT_ALONE = """
with watched() as watchdog:
    come_along(watchdog)
    print("came along", flush=True)
    beat(watchdog, "wait")
    time.sleep(2.2 * TIMEOUT_S)
    print("waited", flush=True)
time.sleep(1.6 * TIMEOUT_S)
print("over", flush=True)
with watched() as watchdog, watched(None):
    pass  # one that is never to end is left at once, and takes nothing from the other
print("another", flush=True)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("how", ["python", "native"])
def test_a_hang_after_progress_ends_the_process_and_is_located(how: str) -> None:
    done = run(HANG, how)
    assert done.stdout.startswith("alive\n"), "ended while it came along"
    assert "in hang" in done.stderr
    if how == "python":
        assert done.returncode == EXIT_CODE
        assert done.stdout.startswith("alive\ntimed out: no progress for 1 s while 'score', at <string>:")
    else:
        assert done.returncode == 1 and "Timeout (0:00:01.250000)!" in done.stderr


def test_who_comes_along_or_waits_for_another_or_is_done_is_left_alone() -> None:
    """Each for longer than a hang may last: above, as long without progress ends the process."""
    done = run(LEFT_ALONE)
    assert (done.returncode, done.stdout.split("\n")) == (0, ["came along", "waited", "over", "another", ""])


def test_without_a_timeout_nothing_is_watched() -> None:
    code = """
import threading
with watched(None) as watchdog:
    print(threading.active_count(), flush=True)
    time.sleep(1.6 * TIMEOUT_S)
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "1\n")
