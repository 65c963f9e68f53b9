"""A process that hangs ends itself, and says where; one that comes along is left alone."""

import subprocess
import sys
import time

import pytest

from vlmprof.sweep.watchdog import EXIT_CODE, Watchdog
from vlmprof.trial.progress import Progress

SCRIPT = """
import ctypes, sys, time
from vlmprof.sweep.watchdog import Watchdog
from vlmprof.trial.progress import Progress

def hang(how):
    if how == "python":
        while True:
            time.sleep(0.01)
    ctypes.PyDLL(None).sleep(600)  # a PyDLL call keeps the interpreter's lock

with Watchdog(1.0, lambda why: print(why, flush=True)) as watchdog:
    watchdog.beat(Progress(phase="score", done=3, total=9))
    hang(sys.argv[1])
"""


@pytest.mark.parametrize("how", ["python", "native"])
def test_a_hang_ends_the_process_and_is_located(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=100, check=False)
    assert "in hang" in done.stderr
    if how == "python":
        assert done.returncode == EXIT_CODE
        assert done.stdout.startswith("timed out: no progress for 1 s while 'score', at <string>:")
    else:
        assert done.returncode == 1 and "Timeout (0:00:01.250000)!" in done.stderr


def test_who_comes_along_or_waits_for_another_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[float] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, timeout_s: ended.append(timeout_s))
    with Watchdog(60.0, lambda why: None) as watchdog:
        watchdog.beat(Progress(phase="score", done=0, total=9))
        thread_free = Watchdog(None, lambda why: None)
        with thread_free:
            pass
    patient = Watchdog(0.2, lambda why: None)
    with patient:
        patient.beat(Progress(phase="wait", done=0, total=1))
        time.sleep(0.6)
    assert ended == []


def test_after_the_trial_nobody_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[float] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, timeout_s: ended.append(timeout_s))
    with Watchdog(0.2, lambda why: None):
        pass
    time.sleep(0.5)
    assert ended == []
