"""Rows of JSON that hold what no text file, file system or table can: each is one failed sample or one named fault."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.public import picture
from vlmprof import registry
from vlmprof.errors import UserError, as_text
from vlmprof.records import Example
from vlmprof.tasks.task import DataSource, Task


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))


def examples(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Example]:
    (folder / "ok.png").write_bytes(picture(1))
    whole = [{"image": "ok.png", "question": "?", "answer": "a", **row} for row in rows]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, whole)))
    task: Task = registry.load("tasks", "local")
    assert task.at is not None
    read = task.at(DataSource(path=str(folder / "q.jsonl"), metric="exact_match"))
    return {example.id: example for example in read.subset("", None, 0)}


def test_half_a_character_is_one_odd_character_wherever_it_stands(tmp_path: Path) -> None:
    odd = examples(tmp_path, [{"id": "a\ud800", "question": "b\ud800c", "answer": "d\udce9"}, {"id": "\U0001f600"}])
    assert set(odd) == {"a\ufffd", "\U0001f600"}
    assert (odd["a\ufffd"].question, odd["a\ufffd"].answers) == ("b\ufffdc", ("d\ufffd",))
    assert not odd["a\ufffd"].picture.fault


def test_a_picture_whose_name_is_no_text_is_one_failed_sample(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xe9.png")).write_bytes(picture(2))  # as os.listdir gives a name in Latin-1
    for _ in range(2):  # read, then from the index
        odd = examples(tmp_path, [{"id": "x", "image": "\udce9.png"}, {"id": "y", "image": "\ud800.png"}, {"id": "z"}])
        assert not odd["z"].picture.fault
        assert ["what is no text in its name: rename it" in odd[name].picture.fault for name in "xy"] == [True, True]


def test_why_a_file_is_no_picture_is_said_with_its_name_and_without_pythons_words(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    said = {
        "folder.png": f"{tmp_path}/folder.png: is a directory",
        "loop.png": f"{tmp_path}/loop.png: too many levels of symbolic links",
        "pipe.png": f"{tmp_path}/pipe.png is not a regular file",
        "a\0b.png": f"{tmp_path}/a\0b.png: no file can have this name (embedded null byte)",
    }
    odd = examples(tmp_path, [{"id": name, "image": name} for name in said])
    assert {name: example.picture.fault for name, example in odd.items()} == said


@pytest.mark.parametrize("odd", ["", " \n", [1], {"a": 1}])
def test_an_id_that_names_nothing_is_refused_with_its_row(odd: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)q.jsonl row 2 .*the id is .*; expected a text or a number"):
        examples(tmp_path, [{"id": 1.5}, {"id": odd}])


def test_text_of_halves_that_belong_together_stays_whole() -> None:
    assert as_text("\ud83d\ude00 é") == "\U0001f600 é"
    assert as_text("\ude00\ud83d") == "\ufffd\ufffd"
