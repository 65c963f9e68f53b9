import json
import time

import pytest

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof.analyze import watch_state
from vlmprof.analyze.objectives import parse_objectives
from vlmprof.analyze.pareto import pareto
from vlmprof.analyze.status import status
from vlmprof.analyze.watch_state import Watcher
from vlmprof.errors import StoreError
from vlmprof.store import tables
from vlmprof.store.heartbeat import Heartbeat, RunningTrial, write_heartbeat
from vlmprof.store.ledger import Ledger
from vlmprof.store.tables import schema_of


def going(folder, *running, beat=1, age_s=0.0, rate=None):
    """A heartbeat with these trials under way, each (id, seconds so far)."""
    under_way = {
        trial: RunningTrial(name=f"demo {trial}", phase="score", done=1, total=2, seconds=s) for trial, s in running
    }
    heartbeat = Heartbeat(time=time.time() - age_s, beat=beat, running=under_way, samples_per_s=rate)
    write_heartbeat(folder, heartbeat)
    return heartbeat


def test_the_front_is_the_one_of_pareto(tmp_path):
    write_results(tmp_path, combined_sweep())
    (front,) = Watcher(tmp_path).look().fronts
    trials = tables.read(tmp_path, "trials")
    known = pareto(trials, parse_objectives(["accuracy", "latency_ms_p50"], schema_of(trials)))
    assert {s.trial for s in front.spots if s.on_front} == set(known["trial"][known["on_front"]])
    assert len(front.spots) == 16
    first = front.spots[0]
    assert first.low[0] < first.values[0] < first.high[0]
    assert set(first.knobs) == {"max_crops", "moe_top_k", "active_blocks"}


def test_of_thousands_that_are_dominated_a_page_gets_some_and_the_number_of_the_others(tmp_path, monkeypatch):
    write_results(tmp_path, combined_sweep())
    whole = Watcher(tmp_path).look().fronts[0]
    monkeypatch.setattr(watch_state, "DOMINATED_SHOWN", 3)
    (front,) = Watcher(tmp_path).look().fronts
    assert [spot for spot in front.spots if spot.on_front] == [spot for spot in whole.spots if spot.on_front]
    assert sum(not spot.on_front for spot in front.spots) == 3
    assert len(front.spots) + front.not_shown == len(whole.spots) == 16 and whole.not_shown == 0
    (told,) = json.loads(json.dumps(Watcher(tmp_path).look().to_json()))["fronts"]
    assert told["not_shown"] == front.not_shown > 0


def test_a_front_that_cannot_be_drawn_says_why(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": crops}, accuracy=None, latency_ms_p50=None) for crops in (1, 2)])
    view = Watcher(tmp_path).look()
    assert view.fronts == () and "2 without accuracy and latency_ms_p50" in view.front_note


def test_out_of_memory_is_no_point_of_a_front_and_is_said(tmp_path):
    oom = trial_row({"max_crops": 9}, state="oom", accuracy=None, latency_ms_p50=None)
    write_results(tmp_path, [trial_row({"max_crops": 1}), oom])
    view = Watcher(tmp_path).look()
    assert len(view.fronts[0].spots) == 1 and view.front_note == "left out: 1 oom"


def test_tables_are_read_again_only_when_a_trial_has_ended(tmp_path, monkeypatch):
    write_results(tmp_path, combined_sweep())
    reads = []
    whole = tables.read
    monkeypatch.setattr("vlmprof.analyze.watch_state.tables.read", lambda *of: reads.append(of) or whole(*of))
    watcher = Watcher(tmp_path, clock=lambda: 0.0)
    for _ in range(3):
        watcher.look()
    assert len(reads) == 1


def test_reading_tables_takes_a_tenth_of_the_time_at_most(tmp_path, monkeypatch):
    rows = combined_sweep()
    write_results(tmp_path, rows)
    now, reads = [0.0], []
    whole = tables.read

    def slow(*of):
        now[0] += 2.0
        reads.append(now[0])
        return whole(*of)

    monkeypatch.setattr("vlmprof.analyze.watch_state.tables.read", slow)
    watcher = Watcher(tmp_path, clock=lambda: now[0])
    ledger = Ledger(tmp_path)
    for minute in range(60):  # a trial runs and ends and runs again
        going(tmp_path, beat=minute + 1)
        watcher.look()
        ledger.append("started" if minute % 2 else "done", trial=rows[0]["trial"])
        now[0] += 1.0
    ledger.close()
    assert 2 <= len(reads) <= 1 + now[0] / 20


def test_a_sweep_of_a_clock_that_is_an_hour_behind_is_heard(tmp_path):
    write_results(tmp_path, [trial_row()])
    now = [0.0]
    watcher = Watcher(tmp_path, clock=lambda: now[0])
    going(tmp_path, beat=1, age_s=3600)
    assert watcher.look().status.sign == "silent"
    going(tmp_path, beat=2, age_s=3600)
    assert watcher.look().status.sign == "alive"
    now[0] += 5.0
    assert watcher.look().status.life == "running, last sign of life 5 s ago"
    now[0] += 90.0
    assert watcher.look().status.life == "no sign of life for 95 s"


def test_json_has_what_a_machine_needs_and_nothing_of_a_dead_driver(tmp_path):
    write_results(tmp_path, combined_sweep())
    going(tmp_path, ("t", 3.0), rate=2.5)
    told = json.loads(json.dumps(Watcher(tmp_path).look().to_json(), allow_nan=False))
    assert told["status"]["total"] == 16 and told["status"]["sign"] == "alive"
    assert told["heartbeat"]["running"]["t"]["seconds"] == 3.0 and told["heartbeat"]["samples_per_s"] == 2.5
    left = told["left"]
    assert left["low"] <= left["seconds"] <= left["high"] and left["give_or_take"] >= 0 and left["basis"]
    assert told["fronts"][0]["objectives"][0]["column"] == "accuracy"
    going(tmp_path, ("t", 3.0), rate=2.5, age_s=95)
    told = Watcher(tmp_path).look().to_json()
    assert told["status"]["sign"] == "silent"
    assert told["heartbeat"]["running"] == {} and told["heartbeat"]["samples_per_s"] is None


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(StoreError, match="holds no sweep"):
        Watcher(tmp_path).look()
    with pytest.raises(StoreError):
        status(tmp_path)
