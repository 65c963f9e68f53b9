import time
from datetime import UTC, datetime

import pytest

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof.analyze.status import status
from vlmprof.errors import StoreError
from vlmprof.store.heartbeat import Heartbeat, write_heartbeat
from vlmprof.store.ledger import Ledger


def beat(folder, *, age_s=1.0, closed=False):
    """Somebody was at work here so long ago."""
    write_heartbeat(folder, Heartbeat(time=time.time() - age_s, beat=7, closed=closed))


def write(folder, *lines):
    ledger = Ledger(folder)
    for line in lines:
        ledger.append(**line)
    ledger.close()


def sweep(*trials, at="2026-08-01T10:00:00+00:00"):
    return {"event": "sweep", "name": "crops", "trials": list(trials), "time": at}


def event(kind, trial, **fields):
    return {"event": kind, "trial": trial, "time": "2026-08-01T10:05:00+00:00", **fields}


def test_a_finished_sweep(tmp_path):
    state = status(write_results(tmp_path, combined_sweep()))
    assert (state.name, state.total, state.finished) == ("combined", 16, 16)
    assert state.counts == {"waiting": 0, "running": 0, "done": 16, "oom": 0, "failed": 0}
    assert state.without_row == ()
    assert state.trial_seconds == 480
    assert state.last_event == "done"
    assert state.last_time == datetime(2026, 8, 1, 10, 15, 30, tzinfo=UTC)


def test_a_sweep_in_full_swing(tmp_path):
    write(
        tmp_path,
        sweep("a", "b", "c", "d", "e"),
        event("started", "a"),
        event("done", "a", seconds=2.0),
        event("started", "b"),
        event("oom", "b", seconds=None),
        event("started", "c"),
        event("failed", "c", seconds=1.5, error="Mismatch: it lied", trace="..."),
        event("started", "d"),
    )
    beat(tmp_path)
    state = status(tmp_path)
    assert state.counts == {"waiting": 1, "running": 1, "done": 1, "oom": 1, "failed": 1}
    assert state.running == ("d",)
    assert (state.sign, state.cut_off, state.seconds_of_ended) == ("alive", (), (2.0, 1.5))
    assert state.failed == {"c": "Mismatch: it lied"}
    assert state.finished == 2
    assert state.trial_seconds == 3.5
    assert state.without_row == ("a", "b", "c")


def test_a_new_run_takes_over_what_the_last_one_left_running(tmp_path):
    write(tmp_path, sweep("a", "b"), event("started", "a"), sweep("a", "b"))
    assert status(tmp_path).counts["waiting"] == 2
    write(tmp_path, event("started", "a"), event("done", "a"))
    assert status(tmp_path).counts == {"waiting": 1, "running": 0, "done": 1, "oom": 0, "failed": 0}


def test_a_grown_sweep_keeps_what_was_done(tmp_path):
    write(tmp_path, sweep("a"), event("started", "a"), event("done", "a"), sweep("a", "b", "c"))
    state = status(tmp_path)
    assert (state.total, state.counts["done"], state.counts["waiting"]) == (3, 1, 2)


def test_trials_of_a_job_that_was_corrected_do_not_count_any_more(tmp_path):
    write(tmp_path, sweep(*(f"wrong{n}" for n in range(1000))), event("started", "wrong1"), event("done", "wrong1"))
    write(tmp_path, sweep("a", "b"), event("started", "a"), event("done", "a"))
    state = status(tmp_path)
    assert (state.total, state.counts["done"], state.counts["waiting"]) == (3, 2, 1)


def test_a_failed_trial_that_runs_again(tmp_path):
    write(tmp_path, sweep("a"), event("failed", "a", error="x"), sweep("a"), event("started", "a"))
    beat(tmp_path)
    state = status(tmp_path)
    assert state.counts["running"] == 1
    assert state.failed == {}


def test_a_trial_counts_once_and_its_last_line_counts(tmp_path):
    write(tmp_path, sweep("a"), event("done", "a"), event("done", "a"))
    assert status(tmp_path).total == 1


def test_rows_that_are_missing_are_named(tmp_path):
    row = trial_row({"max_crops": 1})
    write_results(tmp_path, [row])
    (tmp_path / "trials" / f"{row['trial']}.parquet").unlink()
    assert status(tmp_path).without_row == (row["trial"],)


def test_lines_of_other_kinds_are_passed_over(tmp_path):
    write(tmp_path, sweep("a"), {"event": "note", "trial": "a", "time": "2026-08-01T11:00:00+00:00"})
    state = status(tmp_path)
    assert state.counts["waiting"] == 1
    assert state.last_event == "note"


def test_an_empty_ledger(tmp_path):
    write(tmp_path)
    state = status(tmp_path)
    assert (state.name, state.total, state.last_time) == ("", 0, None)


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(StoreError, match="holds no sweep"):
        status(tmp_path)


def test_lines_for_a_terminal(tmp_path):
    write(
        tmp_path,
        sweep("a", "b", "c"),
        event("done", "a"),
        event("failed", "b", error="Mismatch: it lied", point='active_blocks={"keep":4,"policy":"prefix"} max_crops=4'),
    )
    assert status(tmp_path).lines() == [
        ("sweep", "crops"),
        ("finished", "1 of 3"),
        ("waiting", "1"),
        ("done", "1"),
        ("failed", "1"),
        ("last event", "failed, 2026-08-01 10:05:00+00:00"),
        ("failed b", "active_blocks=prefix 4 max_crops=4: Mismatch: it lied"),
        ("lost a", "the ledger lists it, trials/ has no file of it"),
        ("lost b", "the ledger lists it, trials/ has no file of it"),
    ]


@pytest.mark.parametrize(
    ("age_s", "closed", "sign", "words"),
    [
        (1.0, False, "alive", "running, last sign of life 1 s ago"),
        (95.0, False, "silent", "no sign of life for 95 s"),
        (95.0, True, "ended", "ended in order"),
        (None, False, "none", "there never was a sign of life"),
    ],
)
def test_a_trial_runs_only_while_somebody_is_at_work(tmp_path, age_s, closed, sign, words):
    write(tmp_path, sweep("a", "b"), event("started", "a"))
    if age_s is not None:
        beat(tmp_path, age_s=age_s, closed=closed)
    state = status(tmp_path)
    assert (state.sign, state.life) == (sign, words)
    there = sign == "alive"
    assert (state.running, state.cut_off) == ((("a",), ()) if there else ((), ("a",)))
    assert state.counts["running"] == there and state.counts["waiting"] == 2 - there
    told = dict(state.lines())
    assert ("cut off" in told) == (not there)
    assert words in told["sweep is" if there else "cut off"]


def test_a_heartbeat_that_was_seen_to_change_counts_though_the_clocks_disagree(tmp_path):
    write(tmp_path, sweep("a"), event("started", "a"))
    beat(tmp_path, age_s=3600)
    heard = status(tmp_path, heard_s=2.0)
    assert (heard.sign, heard.silent_s) == ("alive", 2.0)
    assert status(tmp_path).sign == "silent"
    assert status(tmp_path, heard_s=95.0).sign == "silent"


def test_seconds_are_those_of_the_latest_run(tmp_path):
    write(tmp_path, sweep("a", "b"), event("done", "a", seconds=9.0), sweep("a", "b"), event("done", "b", seconds=2.0))
    assert status(tmp_path).seconds_of_ended == (2.0,)
