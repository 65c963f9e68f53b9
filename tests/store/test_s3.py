"""The store over the protocol of S3, which a process of moto's speaks."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from pyarrow import fs

from tests.builders import trial_row
from vlmprof.errors import StoreError
from vlmprof.store import compaction, lease, ledger_log, schema, tables
from vlmprof.store.compaction import Compactor
from vlmprof.store.filesystem import results_folder
from vlmprof.store.lease import LeaseTimings, acquire
from vlmprof.store.ledger import Ledger, read_states
from vlmprof.store.ledger_log import SEGMENTS

TIMINGS = LeaseTimings(beat_s=0.5, stale_s=6.0, poll_s=0.2, settle_s=1.0)
KIND = schema.trials_schema(["max_crops"])


@pytest.fixture(scope="module")
def server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def uri(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(lease, "TIMINGS", TIMINGS)
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    asked = f"scheme=http&endpoint_override={server}&region=us-east-1&allow_bucket_creation=true"
    files, _ = fs.FileSystem.from_uri(f"s3://{bucket}?{asked}")
    files.create_dir(bucket)
    return f"s3://{bucket}/sweeps/mine?{asked}"


def row(trial, **columns):
    return {**trial_row({"max_crops": 2}, **columns), "trial": trial}


def test_a_sweep_is_kept_read_merged_and_gone_on_with(uri, monkeypatch):
    monkeypatch.setattr(compaction, "MERGE_BATCH", 8)
    monkeypatch.setattr(ledger_log, "FAN", 4)
    place = results_folder(uri)
    held = acquire(place, 1)
    ledger = Ledger(place, epoch=held.epoch, check=held.check)
    trials = [f"{number:012x}" for number in range(11)]
    for trial in trials:
        tables.write(place, "trials", trial, [row(trial)], KIND, ledger.epoch)
        ledger.append("done", trial=trial)
    before = tables.read(uri, "trials")
    Compactor(place, ledger).merge()
    assert tables.read(uri, "trials").equals(before)
    assert len(place.names(SEGMENTS)) < len(trials) + 1, "segments of one size are merged"
    ledger.close()
    with pytest.raises(StoreError, match=rf"process {os.getpid()} on "):
        acquire(place, 1)
    held.release()
    again = acquire(place, 1)
    assert set(Ledger(place, epoch=again.epoch, check=again.check).states) == set(trials)
    again.release()


CHILD = """
import sys, time
from tests.store.test_s3 import KIND, TIMINGS, row
from vlmprof.store import lease, tables
from vlmprof.store.filesystem import results_folder
from vlmprof.store.ledger import Ledger
lease.TIMINGS = TIMINGS
place = results_folder(sys.argv[1])
held = lease.acquire(place, 1)
ledger = Ledger(place, epoch=held.epoch, check=held.check)
tables.write(place, "trials", "kept", [row("kept", accuracy=0.1)], KIND, ledger.epoch)
ledger.append("done", trial="kept")
tables.write(place, "trials", "lost", [row("lost", accuracy=0.1)], KIND, ledger.epoch)
if sys.argv[2] == "open":  # in the middle of a PUT
    stream = place.files.open_output_stream(place.path("trials/half.parquet"))
    stream.write(b"x" * 6_000_000)
print("between", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["between", "open"])
def test_a_process_killed_between_data_and_ledger_leaves_only_what_is_whole(uri, how):
    command = [sys.executable, "-c", CHILD, uri, how]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    )
    try:
        assert process.stdout.readline() == "between\n"
        with pytest.raises(StoreError, match=rf"process {process.pid} on "):
            acquire(results_folder(uri), 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.communicate()
    place = results_folder(uri)
    assert read_states(uri) == {"kept": "done"}
    assert tables.read(uri, "trials")["trial"].tolist() == ["kept"]
    assert "half.parquet" not in place.names("trials")
    held = acquire(place, 1)
    ledger = Ledger(place, epoch=held.epoch, check=held.check)
    tables.write(place, "trials", "lost", [row("lost", accuracy=0.9)], KIND, ledger.epoch)
    ledger.append("done", trial="lost")
    held.release()
    assert tables.read(uri, "trials")["accuracy"].tolist() == [0.1, 0.9]


def test_a_bucket_that_is_not_there_says_so(uri):
    with pytest.raises(OSError, match=r"(?i)bucket"):
        acquire(results_folder(uri.replace("s3://", "s3://no-")), 1)
