import time

import pytest

from vlmprof.monitor.live_state import LiveState, NoMetricSink, TrialLabel
from vlmprof.store.collector import TrialResult
from vlmprof.store.heartbeat import read_heartbeat
from vlmprof.store.ledger import Ledger
from vlmprof.trial.progress import Progress

LABEL = TrialLabel(name="demo shapes_qa top_k=1", model="demo", task="shapes_qa")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Counting:
    """A gauge that remembers."""

    def __init__(self):
        self.samples, self.states, self.counts, self.rates = 0, [], {}, []

    def scored(self, samples, label):
        assert label == LABEL
        self.samples += samples

    def ended(self, result):
        self.states.append(result.state)

    def standing(self, counts, samples_per_s):
        self.counts = dict(counts)
        self.rates.append(samples_per_s)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gauge():
    return Counting()


@pytest.fixture
def board(tmp_path, gauge, clock):
    made = LiveState(tmp_path, gauge, clock)
    made.opened(["a", "b", "c"])
    return made


def score(done, total=40):
    return Progress(phase="score", done=done, total=total)


def result(trial, state="done"):
    return TrialResult(trial=trial, knobs=(), state=state, row={"trial": trial})


def test_a_beat_says_what_runs_and_how_far(board, gauge, clock, tmp_path):
    board.began("a", LABEL)
    clock.now += 4
    board.beat()
    first = read_heartbeat(tmp_path)
    assert (first.running["a"].phase, first.running["a"].seconds) == ("start", 4.0)
    board.progress("a", score(0))
    board.progress("a", score(8))
    clock.now += 2
    board.beat()
    second = read_heartbeat(tmp_path)
    assert second.beat == first.beat + 1
    told = second.running["a"]
    assert (told.name, told.phase, told.done, told.total) == (LABEL.name, "score", 8, 40)
    assert (second.samples, second.samples_per_s) == (8, 4.0)
    assert gauge.counts == {"waiting": 2, "running": 1, "done": 0, "oom": 0, "failed": 0}


def test_samples_are_counted_once_whatever_the_reports_say(board, gauge):
    board.began("a", LABEL)
    for done in (0, 8, 8, 16, 8):  # told again, and a report that was overtaken by a later one
        board.progress("a", score(done))
    assert gauge.samples == 16


def test_what_an_earlier_process_scored_is_not_scored_now(board, gauge):
    board.began("a", LABEL)
    board.progress("a", score(24))
    board.progress("a", score(32))
    assert gauge.samples == 8


def test_phases_that_score_nothing_count_nothing(board, gauge):
    board.began("a", LABEL)
    board.progress("a", Progress(phase="time", done=8, total=8))
    assert gauge.samples == 0


def test_the_rate_is_that_of_the_last_minute(board, gauge, clock):
    board.began("a", LABEL)
    board.progress("a", score(0, 10_000))
    for step in range(1, 31):  # a minute at ten a second
        clock.now += 2
        board.progress("a", score(step * 20, 10_000))
        board.beat()
    assert gauge.rates[-1] == pytest.approx(10, rel=0.05)
    for _ in range(40):  # and then it is stuck
        clock.now += 2
        board.beat()
    assert gauge.rates[-1] is None


def test_a_trial_that_ended_is_told_once(board, gauge, tmp_path):
    board.began("a", LABEL)
    board.ended(result("a", "oom"))
    board.ended(result("a", "oom"))
    board.progress("a", score(8))  # sent before it ended, here after
    board.beat()
    assert gauge.states == ["oom"]
    assert read_heartbeat(tmp_path).running == {}
    assert gauge.counts == {"waiting": 2, "running": 0, "done": 0, "oom": 1, "failed": 0}


def test_an_abandoned_trial_waits_again(board, gauge):
    board.began("a", LABEL)
    board.abandon(["a"])
    board.beat()
    assert gauge.counts["waiting"] == 3
    assert board.running() == {}


def test_after_a_restart_it_knows_the_run_from_the_ledger(tmp_path, gauge):
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["old", "a"])
    ledger.append("done", trial="a")
    ledger.append("failed", trial="c")
    ledger.append("sweep", name="x", trials=["a", "b", "c"])
    ledger.append("done", trial="b")
    ledger.close()
    board = LiveState(tmp_path, gauge)
    board.recover({"b": "done"})
    board.beat()
    assert gauge.counts == {"waiting": 1, "running": 0, "done": 2, "oom": 0, "failed": 0}, "c runs again"


def test_closing_says_that_nothing_runs_any_more(board, tmp_path):
    board.began("a", LABEL)
    board.beat()
    board.close()
    last = read_heartbeat(tmp_path)
    assert last.closed and last.running == {} and last.samples_per_s is None


def test_it_beats_by_itself_between_start_and_close(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmprof.monitor.live_state.BEAT_S", 0.01)
    board = LiveState(tmp_path, NoMetricSink())
    board.start()
    for _ in range(500):
        told = read_heartbeat(tmp_path)
        if told and told.beat > 2:
            break
        time.sleep(0.01)
    board.close()
    last = read_heartbeat(tmp_path)
    assert last.beat > 2 and last.closed
    assert last.age_s(time.time()) < 60


def test_a_folder_that_is_gone_ends_nothing(tmp_path):
    board = LiveState(tmp_path / "gone", NoMetricSink())
    board.beat()
    board.close()
