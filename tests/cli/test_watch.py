"""`vlmprof status` as it is typed."""

import json
import time
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from tests.builders import combined_sweep, write_results
from vlmprof.analyze.watch_state import Watcher
from vlmprof.cli import app
from vlmprof.cli.watch import INTERRUPTED, LOOK_S
from vlmprof.store.heartbeat import Heartbeat, write_heartbeat
from vlmprof.store.ledger import Ledger
from vlmprof.submit.startup_report import StartupReport

RUNNER = CliRunner()


def said(*arguments):
    done = RUNNER.invoke(app, list(arguments))
    return done.exit_code, done.output, done.exception


def ended(folder):
    write_results(folder, combined_sweep())
    write_heartbeat(folder, Heartbeat(time=time.time(), beat=9, closed=True))
    return str(folder)


def test_status_once(tmp_path):
    code, text, _ = said("status", ended(tmp_path))
    assert code == 0 and "16 of 16" in text


def test_watching_ends_with_the_sweep(tmp_path):
    code, text, _ = said("status", "--watch", ended(tmp_path))
    assert code == 0
    assert text.strip() == "16 of 16 trials done  |  ended in order"


def test_watching_follows_a_sweep_until_it_ends(tmp_path, monkeypatch):
    write_results(tmp_path, combined_sweep())
    write_heartbeat(tmp_path, Heartbeat(time=time.time(), beat=1))

    def next_beat(_):
        ledger = Ledger(tmp_path)
        ledger.append("failed", trial="late", error="x")
        ledger.close()
        write_heartbeat(tmp_path, Heartbeat(time=time.time(), beat=2, closed=True))

    monkeypatch.setattr("vlmprof.cli.watch.time.sleep", next_beat)
    code, text, _ = said("status", "--watch", str(tmp_path))
    assert code == 0
    assert text.splitlines() == [
        "16 of 16 trials done",
        "16 of 17 trials done, 1 failed  |  ended in order",
    ]


def test_a_sweep_that_has_begun_to_write_and_not_yet_to_beat_is_starting(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["a"], time=datetime.now(UTC).isoformat())
    ledger.close()
    assert Watcher(tmp_path).look().status.life == "starting"
    code, text, _ = said("status", str(tmp_path))
    assert code == 0 and "starting" in text and "never was a sign of life" not in text


def test_status_says_that_a_sweep_has_ended(tmp_path):
    assert "ended in order" in said("status", ended(tmp_path))[1]


def test_for_machines(tmp_path):
    code, text, _ = said("status", "--json", ended(tmp_path))
    assert code == 0
    told = json.loads(text)
    assert (told["status"]["finished"], told["status"]["sign"]) == (16, "ended")


def test_a_folder_that_is_not_there(tmp_path):
    code, _, error = said("status", str(tmp_path / "no"))
    assert code and "there is no folder" in str(error)
    code, _, error = said("status", "no", "--address", "http://127.0.0.1:1")
    assert code and "there is no folder 'no' here, and as a submitted job:" in str(error)


def test_a_submitted_job_is_watched_where_its_folder_is_seen(tmp_path, monkeypatch):
    here = StartupReport(vlmprof="0", python="3", host="node", results=ended(tmp_path))
    monkeypatch.setattr("vlmprof.submit.client.whereabouts", lambda address, name: here)
    code, text, _ = said("status", "--watch", "combined-1")
    assert code == 0 and "16 of 16 trials done" in text
    elsewhere = StartupReport(vlmprof="0", python="3", host="node", results="/not/here")
    monkeypatch.setattr("vlmprof.submit.client.whereabouts", lambda address, name: elsewhere)
    code, _, error = said("status", "combined-1")
    assert code and "lie in /not/here on node" in str(error) and "vlmprof fetch combined-1" in str(error)


def test_the_dashboard_is_written(tmp_path):
    code, text, _ = said("dashboard", "export")
    assert code == 0 and json.loads(text)["uid"] == "vlmprof-sweeps"
    code, _, _ = said("dashboard", "export", "--to", str(tmp_path / "d.json"))
    assert code == 0 and (tmp_path / "d.json").read_text() == text


@pytest.mark.parametrize("there", [False, True])
def test_watching_waits_for_a_sweep_that_is_about_to_start(tmp_path, monkeypatch, there):
    folder, looks = tmp_path / "later", []
    if there:
        folder.mkdir()

    def starts_after_three_looks(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            ended(folder)

    monkeypatch.setattr("vlmprof.cli.watch.time.sleep", starts_after_three_looks)
    code, text, _ = said("status", "--watch", str(folder))
    assert code == 0 and looks == [LOOK_S] * 3
    waiting, last = text.strip().splitlines()
    assert waiting == f"waiting for a sweep to start in {folder} (Ctrl-C ends it)"
    assert last == "16 of 16 trials done  |  ended in order"


def test_waiting_for_a_sweep_ends_with_an_interrupt(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlmprof.cli.watch.time.sleep", interrupted)
    code, text, _ = said("status", "--watch", str(tmp_path / "never"))
    assert code == INTERRUPTED and "waiting for a sweep to start" in text


def test_watching_does_not_wait_for_what_no_sweep_can_be(tmp_path):
    code, _, error = said("status", "--watch", "no", "--address", "http://127.0.0.1:1")
    assert code and "there is no folder 'no' here, and as a submitted job:" in str(error)
    (tmp_path / "file").write_text("x")
    code, _, error = said("status", "--watch", str(tmp_path / "file"))
    assert code and "is a file" in str(error)
