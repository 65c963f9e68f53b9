from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import trial_row
from vlmprof.errors import StoreError
from vlmprof.store import tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import read, read_states


def result(state: Any = "done", **columns: Any) -> TrialResult:
    row = trial_row({"max_crops": 4}, state=state, **columns)
    return TrialResult(trial="abc", knobs=("max_crops",), state=state, row={**row, "trial": "abc"}, trace="...")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def collector(folder: Path) -> Collector:
    return Collector(folder, "mine", wait_s=0.1)


def test_the_line_comes_after_the_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = collector(folder)
    written = []
    monkeypatch.setattr(tables, "write", lambda *args: written.append(read_states(folder)))
    writer.finish(result())
    assert written == [{}]
    assert read_states(folder) == {"abc": "done"}
    writer.close()


def test_a_table_that_cannot_be_written_leaves_no_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = collector(folder)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        writer.finish(result())
    assert read_states(folder) == {}
    writer.close()


def test_told_twice_it_keeps_one_row(folder: Path) -> None:
    writer = collector(folder)
    writer.finish(result())
    writer.finish(result())
    writer.close()
    trials = tables.read(folder, "trials")
    assert trials["sweep"].tolist() == ["mine"]
    assert trials["trial"].tolist() == ["abc"]


def test_a_failure_is_kept_with_its_reason_and_trace_and_a_later_success_replaces_it(folder: Path) -> None:
    writer = collector(folder)
    writer.finish(result("failed", error="ValueError: no"))
    assert [entry["error"] for entry in read(folder) if entry["event"] == "failed"] == ["ValueError: no"]
    assert writer.open_run(["abc"], {}) == set()
    writer.finish(result())
    assert writer.open_run(["abc"], {}) == {"abc"}
    writer.close()
    assert tables.read(folder, "trials")["state"].tolist() == ["done"]


def test_a_second_writer_is_refused_and_let_in_when_the_first_is_gone(folder: Path) -> None:
    first = collector(folder)
    with pytest.raises(StoreError, match="is being written by another sweep"):
        collector(folder)
    first.close()
    collector(folder).close()


def test_a_folder_of_another_schema_is_not_mixed_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = collector(folder)
    writer.open_run(["abc"], {})
    writer.close()
    monkeypatch.setattr("vlmprof.store.schema.SCHEMA_VERSION", 99)
    with pytest.raises(StoreError, match="written with schema 2, this vlmprof writes 99"):
        collector(folder)


def test_a_torn_line_is_cut_off_before_the_next_is_written(folder: Path) -> None:
    writer = collector(folder)
    writer.begin("abc")
    writer.close()
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"event": "done", "tri')
    again = collector(folder)
    again.begin("def")
    again.close()
    assert read_states(folder) == {"abc": "started", "def": "started"}


def test_what_an_attempt_left_is_not_the_next_one_s(folder: Path) -> None:
    for state, rows in (("failed", ({"trial": "abc", "sample": "a", "score": 1.0},)), ("oom", ())):
        writer = collector(folder)
        writer.open_run(["abc"], {})
        writer.finish(replace(result(state), samples=rows), writer.begin("abc").attempt)
        writer.close()
        assert len(tables.read(folder, "samples")) == len(rows)
