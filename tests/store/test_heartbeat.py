import json

import pytest

from vlmprof.store.heartbeat import (
    HEARTBEAT,
    Heartbeat,
    RunningTrial,
    StepTotals,
    TrialWork,
    read_heartbeat,
    write_heartbeat,
)

BEAT = Heartbeat(
    time=1000.0,
    beat=3,
    running={"a": RunningTrial(name="demo top_k=1", phase="score", done=8, total=40, seconds=2.5)},
    samples=8,
    samples_per_s=4.0,
)


def test_what_was_written_is_read(tmp_path):
    write_heartbeat(tmp_path, BEAT)
    assert read_heartbeat(tmp_path) == BEAT
    assert [path.name for path in tmp_path.iterdir()] == [HEARTBEAT], "nothing else may lie about"


def test_costs_and_measured_seconds_are_read_as_they_were_written(tmp_path):
    work = TrialWork(load=1.0, score=2.5, timing=3.5)
    running = {"a": RunningTrial(name="x", phase="score", done=8, total=40, seconds=2.5, step="score", work=work)}
    steps = {"score": StepTotals().plus(2.5, 10.0).plus(5.0, 19.0)}
    beat = Heartbeat(time=1.0, beat=1, running=running, lanes=2, not_begun=3, waiting=(work, work), steps=steps)
    write_heartbeat(tmp_path, beat)
    assert read_heartbeat(tmp_path) == beat


def test_a_beat_of_an_older_version_knows_no_costs(tmp_path):
    running = {"a": {"name": "x", "phase": "score", "done": 8, "total": 40, "seconds": 2.5}}
    told = {"time": 1.0, "beat": 1, "running": running, "samples": 8, "samples_per_s": 4.0, "closed": False}
    (tmp_path / HEARTBEAT).write_text(json.dumps(told))
    beat = read_heartbeat(tmp_path)
    assert beat is not None and beat.running["a"].work is None
    assert (beat.lanes, beat.not_begun, beat.waiting, beat.steps) == (0, None, (), {})


def test_the_last_beat_replaces_the_one_before(tmp_path):
    write_heartbeat(tmp_path, BEAT)
    write_heartbeat(tmp_path, Heartbeat(time=1002.0, beat=4, closed=True))
    last = read_heartbeat(tmp_path)
    assert last is not None and last.closed and last.running == {}


NONE = ["", "{", "[]", '{"time": 1}', json.dumps({"time": 1, "beat": 1, "running": {"a": 3}})]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_heartbeat_says_nothing(tmp_path, text):
    (tmp_path / HEARTBEAT).write_text(text)
    assert read_heartbeat(tmp_path) is None


def test_a_folder_without_one(tmp_path):
    assert read_heartbeat(tmp_path) is None


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(OSError):
        write_heartbeat(tmp_path / "gone", BEAT)


def test_the_age_is_never_negative_though_clocks_disagree():
    assert BEAT.age_s(1095.0) == 95.0
    assert BEAT.age_s(900.0) == 0.0
