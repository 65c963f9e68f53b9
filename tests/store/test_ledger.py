import errno
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmprof.errors import StoreError
from vlmprof.store import ledger_log
from vlmprof.store.ledger import LEDGER, Ledger, read, read_states


def lines_of(folder):
    return list(read(folder))


def write(folder, *events):
    book = Ledger(folder)
    for kind, fields in events:
        book.append(kind, **fields)
    book.close()


text = st.text(max_size=8)  # newlines, quotes and all
entries = st.lists(
    st.tuples(st.sampled_from(["sweep", "started", "done", "oom", "failed"]), st.fixed_dictionaries({"trial": text})),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=entries, data=st.data())
def test_a_ledger_cut_at_any_byte_reads_as_a_prefix(tmp_path, events, data):
    (tmp_path / LEDGER).unlink(missing_ok=True)
    write(tmp_path, *events)
    whole = lines_of(tmp_path)
    raw = (tmp_path / LEDGER).read_bytes()
    cut = data.draw(st.integers(0, len(raw)))
    (tmp_path / LEDGER).write_bytes(raw[:cut])
    assert lines_of(tmp_path) == whole[: raw[:cut].count(b"\n")]


def test_every_byte_of_one_ledger(tmp_path):
    write(tmp_path, ("sweep", {"name": "ä", "trials": ["a"]}), ("started", {"trial": "a"}), ("done", {"trial": "a"}))
    raw, whole = (tmp_path / LEDGER).read_bytes(), lines_of(tmp_path)
    for cut in range(len(raw) + 1):
        (tmp_path / LEDGER).write_bytes(raw[:cut])
        assert lines_of(tmp_path) == whole[: raw[:cut].count(b"\n")]


def test_the_next_writer_cuts_a_torn_tail_off(tmp_path):
    write(tmp_path, ("started", {"trial": "a"}))
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"event": "done", "tri')
    assert read_states(tmp_path) == {"a": "started"}
    write(tmp_path, ("done", {"trial": "b"}))
    assert read_states(tmp_path) == {"a": "started", "b": "done"}
    assert [json.loads(line) for line in (tmp_path / LEDGER).read_text().splitlines()] == lines_of(tmp_path)


def test_the_last_state_counts(tmp_path):
    write(tmp_path, ("started", {"trial": "a"}), ("failed", {"trial": "a"}), ("done", {"trial": "a"}))
    assert read_states(tmp_path) == {"a": "done"}


def test_other_events_are_no_states(tmp_path):
    write(tmp_path, ("done", {"trial": "a"}), ("note", {"trial": "a"}), ("sweep", {"trials": ["b"]}))
    assert read_states(tmp_path) == {"a": "done"}


def test_no_ledger_reads_as_nothing(tmp_path):
    assert lines_of(tmp_path) == []
    assert read_states(tmp_path) == {}


@pytest.mark.parametrize("damage", [b"garbage\n", b"[1]\n", b'{"trial": "a"}\n', b"\xff\n"])
def test_damage_in_the_middle_is_named(tmp_path, damage):
    write(tmp_path, ("done", {"trial": "a"}))
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(damage)
    with pytest.raises(StoreError, match="line 2 is damaged"):
        lines_of(tmp_path)


def test_empty_lines_are_no_damage_and_damage_is_shown_as_text_with_what_to_do(tmp_path):
    write(tmp_path, ("done", {"trial": "a"}))
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b"\n\r\n")
    assert read_states(tmp_path) == {"a": "done"}
    write(tmp_path)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b"not a line\n")
    with pytest.raises(StoreError, match=r"line 4 is damaged: .*, got 'not a line'; delete the line"):
        read_states(tmp_path)


class Full:
    """A file on a disk that fills up in the middle of a line."""

    def __init__(self, file):
        self._file = file
        self.name = file.name

    def write(self, line: bytes) -> int:
        return self._file.write(line[:7])

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path):
    book = Ledger(tmp_path)
    book.append("done", trial="a")
    real, book._log._file = book._log._file, Full(book._log._file)
    with pytest.raises(OSError) as caught:
        book.append("done", trial="b")
    assert caught.value.errno == errno.ENOSPC
    book._log._file = real
    book.append("done", trial="c")
    book.close()
    assert read_states(tmp_path) == {"a": "done", "c": "done"}


def test_a_line_is_on_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(ledger_log.os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    book = Ledger(tmp_path)
    book.append("done", trial="a")
    assert len(synced) == 1
    assert read_states(tmp_path) == {"a": "done"}
    book.close()


def test_lines_that_are_objects_only_together_are_damaged_all_the_same(tmp_path):
    good = b'{"event": "started", "trial": "a"}\n'
    halves, two = [b'{"event": "started"\n', b'"trial": "b"}\n'], [b'{"event": "x"}, {"event": "y"}\n']
    for damage in (halves, two, halves + two, two + halves):
        (tmp_path / "ledger.jsonl").write_bytes(b"".join([good, *damage, good]))
        with pytest.raises(StoreError, match="line 2 is damaged"):
            list(read(tmp_path))
    (tmp_path / "ledger.jsonl").write_bytes(good + b"\n" + good)
    assert list(read(tmp_path)) == [{"event": "started", "trial": "a"}] * 2
