import json

import pytest

from vlmprof.store.heartbeat import HEARTBEAT, Heartbeat, RunningTrial, read_heartbeat, write_heartbeat

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


def test_the_last_beat_replaces_the_one_before(tmp_path):
    write_heartbeat(tmp_path, BEAT)
    write_heartbeat(tmp_path, Heartbeat(time=1002.0, beat=4, closed=True))
    last = read_heartbeat(tmp_path)
    assert last is not None and last.closed and last.running == {}


NONE = ["", "{", "[]", '{"time": 1}', json.dumps({"time": 1, "beat": 1, "running": {"a": 3}})]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_pulse_says_nothing(tmp_path, text):
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
