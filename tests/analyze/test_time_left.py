"""The time left: by hand where it can be worked out, then on sweeps that were recorded and on ones that are made up."""

import itertools
import json
import statistics
import subprocess
import sys

import pytest

from tests.recordings.replay import Frame, play, read
from tests.recordings.synthetic import made_up
from vlmprof.analyze.status import SweepStatus
from vlmprof.analyze.time_left import tail_mean, time_left
from vlmprof.analyze.watch_state import Watcher
from vlmprof.store.heartbeat import Heartbeat, RunningTrial, StepTotals, TrialWork
from vlmprof.store.ledger import Ledger

RECORDED = ("quickstart", "blocks", "lengths")
SWEEPS = list(itertools.product((1, 2, 4), (1, 5), (True, False), (1, 2, 3)))
"""Lanes, answer lengths, whether latency is measured, seed."""


def standing(*, took, waiting=0, running=()):
    counts = {"waiting": waiting, "running": len(running), "done": len(took), "oom": 0, "failed": 0}
    return SweepStatus(name="x", counts=counts, sign="alive", running=tuple(running), seconds_of_ended=tuple(took))


def totals(*pairs):
    """Of (cost, seconds)."""
    found = StepTotals()
    for cost, seconds in pairs:
        found = found.plus(cost, seconds)
    return found


def trial(seconds, **more):
    return RunningTrial(name="x", phase="x", done=0, total=1, seconds=seconds, **more)


# --- without costs: what an older version wrote ---


def test_the_mean_of_what_ended_stands_for_each_where_no_cost_is_known():
    heartbeat = Heartbeat(time=0, beat=1, running={name: trial(4) for name in "ab"})
    left = time_left(standing(took=[8, 10, 12], waiting=6, running="ab"), heartbeat)
    assert left.seconds == pytest.approx(6 + 3 * 10, rel=0.02)
    assert left.low < left.seconds < left.high
    assert left.basis == "mean of 3 ended trials: 10 s, 2 at a time"


def test_a_heartbeat_of_an_older_version_is_read_and_gives_an_estimate(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["a", "b", "c"])
    ledger.append("done", trial="a", seconds=10.0)
    ledger.append("started", trial="b")
    ledger.close()
    running = {"b": {"name": "demo b", "phase": "score", "done": 1, "total": 2, "seconds": 4.0}}
    told = {"time": 4e9, "beat": 3, "running": running, "samples": 3, "samples_per_s": 1.5, "closed": False}
    (tmp_path / ".progress.json").write_text(json.dumps(told))
    left = Watcher(tmp_path).look().left
    assert left.seconds == pytest.approx(16, rel=0.2)
    assert left.basis == "mean of 1 ended trial: 10 s"


def test_the_last_trial_takes_as_long_as_it_takes_however_many_lanes_there_are():
    running = {name: trial(seconds) for name, seconds in (("a", 1), ("b", 9), ("c", 9))}
    left = time_left(standing(took=[10, 10.1, 9.9], running="abc"), Heartbeat(time=0, beat=1, running=running))
    assert left.seconds == pytest.approx(9, rel=0.01)


def test_no_estimate_without_a_trial_that_ended_or_without_anybody_at_work():
    heartbeat = Heartbeat(time=0, beat=1)
    assert time_left(standing(took=[], waiting=3, running="a"), heartbeat) is None
    assert time_left(standing(took=[1.0], waiting=0), heartbeat) is None
    assert time_left(standing(took=[1.0], waiting=3), None) is None
    silent = SweepStatus(name="x", counts={"waiting": 3, "running": 0}, sign="silent", seconds_of_ended=(1.0,))
    assert time_left(silent, heartbeat) is None


# --- with costs ---


def test_seconds_follow_cost_where_what_ended_did():
    steps = {"count": totals((1, 2), (1, 2)), "score": totals((10, 20), (30, 60)), "time": totals((5, 9), (5, 9))}
    waiting = (TrialWork(score=40, timing=5), TrialWork(timing=5), TrialWork(score=20, timing=5))
    heartbeat = Heartbeat(time=0, beat=1, lanes=1, timing_lanes=1, not_begun=3, waiting=waiting, steps=steps)
    left = time_left(standing(took=[31, 71], waiting=3), heartbeat)
    assert left.seconds == pytest.approx(3 * (2 + 9) + 2 * (40 + 20), rel=0.05)
    assert left.low < 153 < left.high
    assert left.basis == "from the work of 2 ended trials"


def test_a_group_of_trials_counts_as_its_members_do():
    steps = {"count": totals((1, 2), (1, 2)), "score": totals((10, 20), (30, 60))}
    alone = Heartbeat(time=0, beat=1, lanes=2, not_begun=4, waiting=(TrialWork(score=20),) * 4, steps=steps)
    grouped = Heartbeat(time=0, beat=1, lanes=2, not_begun=4, waiting=(TrialWork(score=80, trials=4),), steps=steps)
    now = standing(took=[22, 62], waiting=4)
    assert time_left(now, alone) == time_left(now, grouped)


def test_one_timing_pass_at_a_time_is_what_many_lanes_wait_for():
    steps = {"count": totals((1, 1), (1, 1)), "time": totals((5, 30), (5, 30))}
    about = {"time": 0, "beat": 1, "lanes": 4, "not_begun": 8, "waiting": (TrialWork(timing=5),) * 8, "steps": steps}
    now = standing(took=[31, 31], waiting=8)
    assert time_left(now, Heartbeat(timing_lanes=1, **about)).seconds == pytest.approx(1 + 8 * 30)
    assert time_left(now, Heartbeat(timing_lanes=4, **about)).seconds == pytest.approx(2 * 31)


def test_a_score_pass_is_judged_by_how_far_it_has_come():
    steps = {"count": totals((1, 1)), "score": totals((10, 100))}
    work = TrialWork(score=10)

    def left(done, spent, quiet=0.0, before=0):
        one = RunningTrial(
            name="x", phase="score", done=done, total=100, seconds=spent + 1, step="score", step_seconds=spent,
            quiet_seconds=quiet, done_before=before, work=work,
        )  # fmt: skip
        heartbeat = Heartbeat(time=0, beat=1, lanes=1, not_begun=0, running={"a": one}, steps=steps)
        return time_left(standing(took=[101], running="a"), heartbeat).seconds

    assert left(50, 50) == pytest.approx(50, rel=0.01)
    assert left(50, 100) == pytest.approx(75, rel=0.01), "twice as slow so far: half of that is believed"
    assert left(50, 50, quiet=0.0) > left(50, 55, quiet=5.0) > left(50, 150, quiet=100.0) > 0
    assert left(90, 10, before=80) == pytest.approx(10, rel=0.01), "resumed: of what was left, half is done"


def test_time_that_passes_never_makes_it_grow_and_never_ends_it():
    values = [tail_mean(10 - passed, 1.5) for passed in range(200)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values))
    assert values[0] == pytest.approx(10, rel=1e-6) and values[-1] > 0


def test_what_is_not_known_is_not_counted_as_nothing():
    """A waiting trial without a cost, or a step that nobody has completed: the mean of what ended stands in."""
    steps = {"count": totals((1, 1)), "score": totals((10, 100))}
    now = standing(took=[50], waiting=2)
    lacking = Heartbeat(time=0, beat=1, lanes=1, not_begun=2, waiting=(), steps=steps)
    unseen = Heartbeat(time=0, beat=1, lanes=1, not_begun=2, waiting=(TrialWork(score=1, timing=1),) * 2, steps=steps)
    assert [time_left(now, heartbeat).seconds for heartbeat in (lacking, unseen)] == [100, 100]


# --- recorded sweeps ---


def after_the_second(recording, **how) -> list[Frame]:
    frames = [frame for frame in play(recording, **how) if len(frame.view.status.seconds_of_ended) >= 2]
    return [frame for frame in frames if frame.truly_left > 0]


def error(frame: Frame) -> float:
    assert frame.view.left is not None
    return abs(frame.view.left.seconds - frame.truly_left) / frame.truly_left


def rises(frames: list[Frame]) -> float:
    """What the estimate rose by, all rises together, over what it was first."""
    seconds = [frame.view.left.seconds for frame in frames]
    return sum(max(0.0, later - earlier) for earlier, later in itertools.pairwise(seconds)) / seconds[0]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_sweeps_are_estimated_within_a_fifth(name):
    frames = after_the_second(read(name), every=0.5)
    assert len(frames) > 50
    assert statistics.median(error(frame) for frame in frames) <= 0.20


@pytest.mark.parametrize(("lanes", "lengths", "timed", "seed"), SWEEPS)
def test_made_up_sweeps_are_estimated_within_a_fifth_and_the_estimate_falls(lanes, lengths, timed, seed):
    recording = made_up(seed, lanes=lanes, lengths=lengths, timed=timed)
    frames = after_the_second(recording, every=recording["events"][-1][0] / 150)
    assert len(frames) > 50
    assert statistics.median(error(frame) for frame in frames) <= 0.20
    assert rises(frames) <= 0.5
    inside = [frame.view.left.low <= frame.truly_left <= frame.view.left.high for frame in frames]
    assert statistics.fmean(inside) >= 0.75, "a 95 % interval that knows nothing of lanes, and of few trials"


@pytest.mark.parametrize("name", RECORDED)
def test_between_two_events_it_never_grows(name):
    recording = read(name)
    times = [event[0] for event in recording["events"]]
    for earlier, later in itertools.pairwise(after_the_second(recording, every=0.25)):
        if not any(earlier.at < at <= later.at for at in times):
            assert later.view.left.seconds <= earlier.view.left.seconds + 0.02, "rounding of what is written"


@pytest.mark.parametrize("name", RECORDED)
def test_the_last_frame_is_the_truth(name):
    *_, last = play(read(name))
    counts = last.view.status.counts
    assert counts["done"] == len(read(name)["works"]) and counts["waiting"] == counts["running"] == 0
    assert last.view.left is None


@pytest.mark.parametrize("lanes", [1, 2])
def test_without_costs_there_is_an_estimate_too(lanes):
    frames = after_the_second(made_up(1, lanes=lanes), every=60.0, costs=False)
    assert len(frames) > 30 and all("mean of" in frame.view.left.basis for frame in frames)


def test_it_needs_neither_torch_nor_ray():
    code = "import sys, vlmprof.analyze.time_left; assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
