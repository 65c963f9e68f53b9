"""A process that is stopped for real: the pause is seen, and nothing else is taken for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.serial

BUSY = """
import sys, threading, time
from vlmprof.measure.pauses import PauseWatch

def spin(seconds):  # holds the interpreter's lock as often as it can get it
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(2000))

with PauseWatch() as watch:
    print("ready", flush=True)
    helpers = [threading.Thread(target=spin, args=(1.5,)) for _ in range(3)]
    for helper in helpers: helper.start()
    for helper in helpers: helper.join()
    list(range(10_000_000)).sort(key=lambda x: -x)  # one long call that holds the lock
    print(watch.paused_ns() / 1e9, flush=True)
"""


@pytest.mark.parametrize("stopped_s", [0.0, 0.3, 0.76])
def test_a_stopped_process_is_told_from_a_busy_one(stopped_s: float) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.4)
        if stopped_s:
            began = time.monotonic()
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.kill(process.pid, signal.SIGCONT)
            stopped_s = time.monotonic() - began  # on a busy machine this test sleeps longer than it asked for
        seen = float(process.stdout.readline())
    assert seen == pytest.approx(stopped_s, abs=0.1)
