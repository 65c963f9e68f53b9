import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.store.folders import KINDS, objects, place_of
from vlmprof.errors import StoreError
from vlmprof.store import lease
from vlmprof.store.filesystem import results_folder
from vlmprof.store.lease import LeaseTimings, acquire, list_claims, read_claims
from vlmprof.store.process_identity import ProcessIdentity

pytestmark = pytest.mark.serial

QUICK = LeaseTimings(beat_s=0.1, stale_s=1.5, poll_s=0.05, settle_s=0.3)
ELSEWHERE = ProcessIdentity(host="node-7", pid=4711, since="2026-08-01T10:00:00+00:00", kernel="another", born="1")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "TIMINGS", QUICK)


@pytest.fixture(params=KINDS)
def place(request, tmp_path, monkeypatch):
    return place_of(request.param, tmp_path / "results", monkeypatch)


def claimed_by(place, who, beat=1, released=False):
    """What a process of another host left: a claim and a heartbeat."""
    claim = lease.Claim(epoch=3, token="" if place.folder else "aaaa")
    place.write(claim.path, json.dumps(who.as_dict()).encode())
    told = {"beat": beat, "time": "2026-08-01T10:00:09+00:00", "released": released}
    place.write(claim.beat, json.dumps(told).encode())
    return claim


def test_a_second_writer_is_refused_by_name_and_let_in_after_the_first(place):
    first = acquire(place, 0.1)
    with pytest.raises(StoreError, match=rf"another sweep \(process {os.getpid()} on .*, heartbeat \d+ s old\)"):
        acquire(place, 0.1)
    first.check()
    first.release()
    second = acquire(place, 0.1)
    assert second.epoch == first.epoch + 1
    assert read_claims(place).released is False
    second.release()
    assert read_claims(place).released is True


def test_a_heartbeat_of_another_host_that_stands_still_is_a_death(place):
    claimed_by(place, ELSEWHERE)
    began = time.monotonic()
    taken = acquire(place, 0.1)
    assert time.monotonic() - began >= QUICK.stale_s
    assert taken.epoch == 4
    taken.release()


def test_one_that_was_released_is_free_at_once(place):
    claimed_by(place, ELSEWHERE, released=True)
    taken = acquire(place, 0.1)
    assert taken.epoch == 4
    taken.release()


def test_a_heartbeat_that_moves_is_a_life_whatever_its_clock_says(place):
    over = threading.Event()
    claimed_by(place, ELSEWHERE, -1)

    def beat():
        for number in range(10_000):
            claimed_by(place, ELSEWHERE, number)
            if over.wait(QUICK.beat_s):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(
            StoreError, match=r"process 4711 on node-7, since 2026.*, last heartbeat 2026-08-01T10:00:09"
        ):
            acquire(place, 0.5)
    finally:
        over.set()
        thread.join()


def test_a_process_of_this_host_that_is_gone_is_dead_at_once(place):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone = replace(ProcessIdentity.this_process(), pid=int(child.stdout), born="1")
    assert gone.is_known_dead()
    assert not ProcessIdentity.this_process().is_known_dead()
    claimed_by(place, gone)
    began = time.monotonic()
    acquire(place, 0.1).release()
    assert time.monotonic() - began < QUICK.stale_s


def test_who_was_believed_dead_writes_nothing_more(place):
    slow = acquire(place, 0.1)
    slow._released.set()  # its process is stopped, or cut off: no heartbeat goes out
    slow._beating.join()
    if slow._lock is not None:
        slow._lock.release()  # as seen from a host that knows no lock of this one's
    claimed = lease.Claim(epoch=slow.epoch + 1, token=slow._claim.token)
    place.write(claimed.path, json.dumps(ELSEWHERE.as_dict()).encode())
    with pytest.raises(StoreError, match=r"taken over by another sweep \(process 4711 on node-7"):
        slow.check()


def test_a_place_that_was_taken_away_is_noticed(place):
    held = acquire(place, 0.1)
    for name in place.names(lease.CLAIMS):
        if name.endswith(".claim"):
            place.remove(f"{lease.CLAIMS}/{name}")
    with pytest.raises(StoreError, match="is gone"):
        held.check()
    held.release()


@pytest.mark.parametrize("kind", ["mount", "objects"])
def test_of_many_that_want_it_at_once_one_gets_it(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "TIMINGS", replace(QUICK, settle_s=1.5))  # time enough on a loaded host
    place = place_of(kind, tmp_path, monkeypatch)
    won, refused, start = [], [], threading.Barrier(6)

    def want():
        start.wait()
        try:
            won.append(acquire(place, 0.5))
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 5
    won[0].check()
    won[0].release()


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_claim_that_came_late_is_withdrawn(monkeypatch):
    place, clock, delays, claims = objects(), Clock(), [QUICK.settle_s], []
    real = lease._write_json

    def put(place, name, told):
        if name.endswith(".claim"):
            claims.append(name)
            clock.sleep(delays.pop() if delays else 0)
        real(place, name, told)

    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(lease, "_write_json", put)
    acquire(place, 0.1).release()
    assert len(claims) == 2
    assert [claim.path for claim in list_claims(place)] == claims[1:]
    monkeypatch.setattr(lease, "MAX_CLAIMS", 1)
    delays.append(QUICK.settle_s)
    with pytest.raises(StoreError, match="answers too slowly"):
        acquire(place, 0.1)


HOLD = """
import sys
from pathlib import Path
from vlmprof.store.lease import acquire
from vlmprof.store.filesystem import results_folder
from vlmprof.store import filesystem, lease
if sys.argv[2] == "mount":
    filesystem.seen_by_other_hosts = lambda folder: True
lease.TIMINGS = lease.LeaseTimings(beat_s=0.1, stale_s=1.5, poll_s=0.05)
held = acquire(results_folder(Path(sys.argv[1])), 1)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["disk", "mount"])
def test_a_live_process_is_refused_and_a_killed_one_taken_over(kind, tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLD, str(tmp_path), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        place = place_of(kind, tmp_path, monkeypatch)
        with pytest.raises(StoreError, match=rf"process {process.pid} on "):
            acquire(place, 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        taken = acquire(place, 0.3)
        taken.check()
        taken.release()
    finally:
        process.kill()
        process.communicate()


def test_a_claim_by_something_else_is_no_reason_to_fail(tmp_path):
    (tmp_path / lease.CLAIMS).mkdir()
    (tmp_path / lease.CLAIMS / "000001.claim").write_text("torn")
    assert (
        str(read_claims(results_folder(tmp_path)).holder)
        == "another sweep (process 0 on an unknown host, no heartbeat yet)"
    )
