import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.folders import objects, place_of
from vlmprof.errors import StoreError
from vlmprof.store import ledger_log
from vlmprof.store.ledger import Ledger, read, read_states
from vlmprof.store.ledger_log import FAN, SEGMENTS, Segment, SegmentLog, read_lines


def line(number):
    return json.dumps({"event": "note", "number": number}).encode() + b"\n"


def write(place, epoch, count):
    lines = read_lines(place)
    book = SegmentLog(place, epoch, lines)
    for number in range(len(lines), len(lines) + count):
        book.append(line(number))
    return book


def numbers(place):
    return [entry["number"] for entry in read(place)]


@pytest.mark.parametrize("kind", ["mount", "objects"])
def test_lines_come_back_over_epochs(kind, tmp_path, monkeypatch):
    place = place_of(kind, tmp_path, monkeypatch)
    assert numbers(place) == []
    for epoch in (1, 2, 5):
        write(place, epoch, 3).close()
    assert numbers(place) == list(range(9))


def test_many_lines_lie_in_few_objects():
    place = objects()
    write(place, 1, 1200).close()
    assert numbers(place) == list(range(1200))
    assert len(place.names(SEGMENTS)) <= 3 * FAN


def test_a_writer_that_was_overtaken_changes_nothing():
    place = objects()
    old = write(place, 1, 2)
    new = write(place, 2, 1)
    for number in (100, 101, 102):
        old.append(line(number))
    new.append(line(3))
    assert numbers(place) == [0, 1, 2, 3]
    third = write(place, 3, 1)
    old.append(line(103))
    new.append(line(104))
    third.append(line(5))
    assert numbers(place) == [0, 1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 3 * FAN + 2), cut=st.integers(0, 400), again=st.integers(0, 3))
def test_a_writer_that_dies_between_any_two_objects_leaves_a_whole_ledger(count, cut, again):
    """Objects appear and go one at a time; a crash is any prefix of that."""
    place, steps = objects(), []
    real_write, real_remove = type(place).write, type(place).remove

    class Dead(Exception):
        pass

    def step(real):
        def run(self, *args):
            if len(steps) >= cut:
                raise Dead
            steps.append(args[0])
            real(self, *args)

        return run

    told = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(place), "write", step(real_write))
        patch.setattr(type(place), "remove", step(real_remove))
        try:
            book = SegmentLog(place, 1, [])
            for told in range(1, count + 1):
                book.append(line(told - 1))
        except Dead:
            told = max(told - 1, 0)  # the last one was not acknowledged
    assert numbers(place)[:told] == list(range(told))
    assert len(numbers(place)) <= told + 1
    before = numbers(place)
    write(place, 2, again).close()
    assert numbers(place) == [*before, *range(len(before), len(before) + again)]


def test_a_reader_whose_listing_is_out_of_date_lists_again(monkeypatch):
    place = objects()
    write(place, 1, 3)
    stale = [Segment(epoch=1, first=0, count=0), Segment(epoch=1, first=0, count=7)]
    answers = [stale, ledger_log._list_segments(place)]
    monkeypatch.setattr(ledger_log, "_list_segments", lambda place: answers.pop(0))
    assert len(read_lines(place)) == 3


def test_missing_objects_are_an_error_and_no_shorter_ledger():
    place = objects()
    write(place, 1, 5)
    place.remove(Segment(epoch=1, first=2, count=1).path)
    with pytest.raises(StoreError, match="objects of the ledger are missing"):
        read_lines(place)


def test_after_a_failed_line_an_object_store_takes_no_other(monkeypatch):
    place = objects()
    book = write(place, 1, 1)

    def fails(self, name, data):
        raise OSError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "write", fails)
        with pytest.raises(OSError, match="timed out"):
            book.append(line(1))
    with pytest.raises(StoreError, match="start again to go on"):
        book.append(line(2))
    assert numbers(place) == [0]


def test_a_file_that_others_begin_to_see_becomes_segments(tmp_path, monkeypatch):
    book = Ledger(tmp_path)
    book.append("done", trial="a")
    book.close()
    place = place_of("mount", tmp_path, monkeypatch)
    taken = Ledger(place, epoch=7)
    taken.append("done", trial="b")
    assert (taken.epoch, taken.states) == (7, {"a": "done", "b": "done"})
    book = Ledger(tmp_path, epoch=8)  # and stays so, also where nobody else sees it
    book.append("failed", trial="c")
    assert read_states(tmp_path) == {"a": "done", "b": "done", "c": "failed"}
    assert [entry.get("epoch") for entry in read(tmp_path)] == [None, 7, 8]


def test_an_interrupted_line_leaves_no_gap(tmp_path, monkeypatch):
    place = place_of("mount", tmp_path, monkeypatch)
    written = SegmentLog(place, 1, [])
    written.append(line(0))
    with monkeypatch.context() as patch:
        patch.setattr(type(place), "write", lambda *told: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            written.append(line(1))
    written.append(line(2))
    written.close()
    assert numbers(place) == [0, 2]
