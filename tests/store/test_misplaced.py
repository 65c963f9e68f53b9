"""A folder in the place of a file of a results folder, or the reverse: one sentence, before a trial runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vlmprof
from tests.builders import combined_sweep, write_results
from vlmprof.analyze.status import status
from vlmprof.cli import app
from vlmprof.errors import SpecError, StoreError
from vlmprof.store import tables
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import results_folder
from vlmprof.store.lost_trials import lost_trials, read_states
from vlmprof.store.misplaced import FILES, FOLDERS, misplaced

ROWS = combined_sweep()[:3]
FIRST = str(ROWS[0]["trial"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results", ROWS)


def spoil(place: Path) -> None:
    """A folder where there is a file or nothing of a file's name, and a file where there is a folder."""
    if place.name in FOLDERS:
        shutil.rmtree(place, ignore_errors=True)
        place.write_text("x")
        return
    place.unlink(missing_ok=True)
    place.mkdir()


def test_a_sound_folder_and_one_that_is_not_yet_there_have_nothing_in_the_way(folder: Path, tmp_path: Path) -> None:
    assert list(misplaced(results_folder(folder))) == [] == list(misplaced(results_folder(tmp_path / "new")))


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, f"trials/{FIRST}.parquet"])
def test_a_sweep_does_not_begin_where_it_could_not_end(folder: Path, name: str) -> None:
    spoil(folder / name)
    expected = rf"{name} is a (file|folder), and a (file|folder) is expected there; move it away, and start again"
    with pytest.raises(StoreError, match=expected):
        Collector(folder, sweep="combined", wait_s=0.0)
    assert (folder / name).exists(), "nothing is removed"


def test_a_file_in_the_place_of_the_folder_itself_is_told(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("x")
    with pytest.raises(StoreError, match="results is a file, and a folder of results is expected there"):
        Collector(tmp_path / "results", sweep="combined", wait_s=0.0)


@pytest.mark.parametrize(("name", "lost"), [("trials", 3), (f"trials/{FIRST}.parquet", 1), ("samples", 3)])
def test_rows_that_cannot_be_there_are_lost_and_status_says_what_is_in_the_way(
    folder: Path, name: str, lost: int
) -> None:
    spoil(folder / name)
    found = status(folder)
    assert len(lost_trials(folder)) == lost == found.counts["waiting"] and len(read_states(folder)) == 3 - lost
    assert any(label == "in the way" and name in text for label, text in found.lines())
    assert len(tables.read(folder, "trials")) == (3 if name == "samples" else 3 - lost)


def test_the_front_is_shown_where_it_cannot_be_written(folder: Path) -> None:
    spoil(folder / "pareto.parquet")
    result = CliRunner().invoke(app, ["pareto", str(folder)])
    assert "●" in result.output and isinstance(result.exception, StoreError)
    assert "the front cannot be written to" in str(result.exception) and "move it away" in str(result.exception)
    assert [path.name for path in folder.glob("*.partial")] == []


def test_a_ledger_that_is_a_folder_is_told(folder: Path) -> None:
    spoil(folder / "ledger.jsonl")
    with pytest.raises(StoreError, match=r"ledger.jsonl is a folder, and the ledger is a file of that name"):
        status(folder)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/dev/null", "/dev/null is a device; expected a folder, or a name that is free"),
        ("/dev/null/below", "/dev/null is a device"),
        ("file:///dev/null", "/dev/null is a device"),
        ("{}/text", "text is a file"),
        ("{}/text/below", "text is a file"),
        ("{}/link", "link is a link to /nowhere, where nothing is"),
        ("{}/new/below", ""),
        ("{}", ""),
        ("s3://bucket", ""),
    ],
)
def test_check_refuses_a_place_where_no_folder_can_be(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "text").write_text("x")
    (tmp_path / "link").symlink_to("/nowhere")
    where = place.format(tmp_path)
    job = {"name": "x", "models": ["demo"], "tasks": ["shapes_qa"], "knobs": {"max_crops": [1]}, "storage": where}
    if not said:
        assert vlmprof.check(job).spec.where == where
        return
    with pytest.raises(SpecError, match=rf"storage: .*{said}"):
        vlmprof.check(job)
