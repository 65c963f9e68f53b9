import time

import pytest

from vlmprof.analyze.watch_state import Watcher
from vlmprof.monitor.live_state import LiveState, NoMetricSink, TrialLabel
from vlmprof.store.collector import TrialResult
from vlmprof.store.heartbeat import GROUPS, StepTotals, TrialWork, read_heartbeat
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
    assert board.view().heartbeat.running == {}


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


def phase(name, done=0, total=1):
    return Progress(phase=name, done=done, total=total)


def run_through(board, clock, trial="a", state="done"):
    """Load 5 s, count 1 s, score 10 s, audit 2 s, wait for others 30 s, warm up and time 7 s."""
    board.began(trial, LABEL)
    for seconds, told in [
        (1, phase("load")),
        (4, phase("count")),
        (1, score(0)),
        (10, score(40)),
        (0, phase("audit", 0, 4)),
        (2, phase("wait")),
        (30, phase("warm up")),
        (3, phase("time")),
    ]:
        clock.now += seconds
        board.progress(trial, told)
    clock.now += 4
    row = {"trial": trial, "seconds": 55.0}
    board.ended(TrialResult(trial=trial, knobs=(), state=state, row=row))


def test_what_each_step_took_is_added_up_against_what_it_cost(board, clock, tmp_path):
    board.expect({trial: TrialWork(load=trial == "a", score=100.0, timing=20.0) for trial in "abc"})
    run_through(board, clock)
    board.beat()
    told = read_heartbeat(tmp_path)
    expected = {"load": (1, 5), "count": (1, 1), "score": (100, 10), "audit": (100, 2), "time": (20, 7)}
    assert told.steps == {step: StepTotals().plus(*pair) for step, pair in expected.items()}
    assert (told.lanes, told.timing_lanes, told.not_begun) == (1, 1, 2)
    assert told.waiting == (TrialWork(score=100.0, timing=20.0),) * 2


def test_a_trial_that_failed_says_nothing_about_the_step_that_it_failed_in(board, clock):
    board.expect({trial: TrialWork(load=1.0, score=100.0, timing=20.0) for trial in "abc"})
    run_through(board, clock, state="failed")
    assert "time" not in board.view().heartbeat.steps and board.view().heartbeat.steps["score"].count == 1


def test_a_resumed_score_pass_costs_what_was_left_of_it(board, clock):
    board.expect({"a": TrialWork(score=100.0)})
    board.began("a", LABEL)
    board.progress("a", score(30))
    clock.now += 5
    board.progress("a", score(40))
    board.ended(result("a"))
    assert board.view().heartbeat.steps["score"] == StepTotals().plus(25.0, 5.0)


def test_thousands_of_waiting_trials_make_a_small_heartbeat(tmp_path, gauge):
    board = LiveState(tmp_path, gauge)
    trials = [str(number) for number in range(5000)]
    board.opened(trials)
    board.expect({trial: TrialWork(score=float(trial), timing=1.0) for trial in trials})
    board.beat()
    told = read_heartbeat(tmp_path)
    assert len(told.waiting) <= GROUPS and sum(work.trials for work in told.waiting) == told.not_begun == 5000
    assert sum(work.score for work in told.waiting) == sum(range(5000))


def test_a_cost_that_is_not_known_leaves_no_sum_that_says_too_little(board):
    board.expect({"a": TrialWork(score=1.0), "b": TrialWork(score=1.0)})
    heartbeat = board.view().heartbeat
    assert (heartbeat.not_begun, heartbeat.waiting) == (3, ())


def test_the_terminal_and_the_folder_say_the_same(tmp_path, gauge, clock):
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["a", "b", "c"])
    board = LiveState(tmp_path, gauge, clock)
    board.recover({})
    board.expect({trial: TrialWork(score=100.0, timing=20.0) for trial in "abc"})
    ledger.append("started", trial="a")
    run_through(board, clock)
    ledger.append("done", trial="a", seconds=55.0)
    ledger.append("started", trial="b")
    board.began("b", LABEL)
    clock.now += 3
    board.beat()
    ledger.close()
    mine, theirs = board.view(), Watcher(tmp_path).look()
    assert mine.left == theirs.left and mine.left is not None
    for name in ("name", "counts", "running", "seconds_of_ended", "ended", "sign", "total", "finished"):
        assert getattr(mine.status, name) == getattr(theirs.status, name), name
