"""Identity of data: every byte that can change an answer, at the cost of a look where nothing has changed."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs import small_job
from tests.tasks.public import picture, write_parquet
from vlmprof import file_identity, registry
from vlmprof.file_identity import content_digest, fingerprint
from vlmprof.records import Example
from vlmprof.tasks._data import index
from vlmprof.tasks._data.decode import PictureError
from vlmprof.tasks._data.pictures import StoredPicture
from vlmprof.tasks.task import DataSource, Task


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test are old enough for their times to be trusted, so that what is seen is seen by them."""
    monkeypatch.setattr(file_identity, "SETTLED_NS", 0)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(picture(n))
    rows = [{"id": str(n), "image": f"{n}.png", "question": "?", "answer": "a"} for n in range(4)]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "q.jsonl"


def task_at(path: Path, name: str = "local", **more: Any) -> Task:
    found: Task = registry.load("tasks", name)
    assert found.at is not None
    return found.at(DataSource(path=str(path), metric="exact_match" if name == "local" else "", **more))


def sample(task: Task, name: str) -> Example:
    return next(example for example in task.subset("", None, 0) if example.id == name)


def colour(example: Example) -> tuple[int, ...]:
    return tuple(np.asarray(example.picture.load())[0, 0].tolist())


def same_size_and_time(file: Path, content: bytes) -> None:
    """Replace a file by one of the same size and modification time, as ``cp -p`` and ``rsync`` can."""
    before = file.stat()
    padded = content + b"\0" * (before.st_size - len(content))
    assert len(padded) == before.st_size
    other = file.with_suffix(".new")
    other.write_bytes(padded)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("how", ["written over", "moved into place", "size and time put back"])
def test_a_picture_replaced_under_its_name_is_seen(questions: Path, how: str) -> None:
    before = task_at(questions)
    assert colour(sample(before, "1")) == (37, 90, 11)
    file = questions.parent / "1.png"
    if how == "written over":
        file.write_bytes(picture(2))
    elif how == "moved into place":
        (questions.parent / "2.png").replace(file)
    else:
        file.write_bytes(picture(1) + b"\0" * 60)  # what follows the end of a PNG is ignored
        before = task_at(questions)
        same_size_and_time(file, picture(2))
    after = task_at(questions)
    assert after.revision != before.revision
    seen = sample(after, "1")
    assert colour(seen) == (74, 90, 22) and seen.picture.load().size == (seen.picture.width, seen.picture.height)
    assert colour(sample(after, "3")) == (111, 90, 33)


def test_a_picture_that_is_put_in_place_later_is_seen_and_one_that_is_lost_too(questions: Path) -> None:
    content = (questions.parent / "2.png").read_bytes()
    whole = task_at(questions).revision
    (questions.parent / "2.png").unlink()
    without = task_at(questions)
    assert "2.png: there is no such file" in sample(without, "2").picture.fault
    with pytest.raises(FileNotFoundError):
        sample(without, "2").picture.load()
    (questions.parent / "2.png").write_bytes(content)
    again = task_at(questions)
    assert not sample(again, "2").picture.fault and colour(sample(again, "2")) == (74, 90, 22)
    assert again.revision == whole != without.revision


def test_a_picture_that_changes_between_index_and_decoding_is_refused(questions: Path) -> None:
    example = sample(task_at(questions), "1")
    (questions.parent / "1.png").write_bytes(picture(2))
    with pytest.raises(PictureError, match=r"1\.png: the file has changed since the task was read"):
        example.picture.load()


def test_equal_pictures_have_equal_keys_wherever_they_are(questions: Path, tmp_path: Path) -> None:
    rows = [{"image": {"bytes": picture(1), "path": ""}, "question": "?", "answer": "a", "id": "1"}]
    write_parquet(tmp_path / "p.parquet", rows)
    in_file, in_cell = (sample(task_at(path), "1").picture.load for path in (questions, tmp_path / "p.parquet"))
    assert isinstance(in_file, StoredPicture) and isinstance(in_cell, StoredPicture)
    assert in_file.key == in_cell.key


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.999])
def test_a_label_corrected_anywhere_in_a_large_file_changes_the_trial(
    tmp_path: Path, tiny_checkpoint: Path, place: float
) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [{"id": str(n), "image": "a.png", "question": f"{n}? {'x' * 1000}", "answer": "aa"} for n in range(4000)]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert file.stat().st_size > 4 * 2**20
    task = {"name": "local", "path": str(file), "metric": "exact_match", "samples": 2}
    before = small_job(tmp_path, tiny_checkpoint, tasks=[task]).plans[0].id
    rows[int(place * len(rows))]["answer"] = "bb"
    same_size_and_time(file, "\n".join(map(json.dumps, rows)).encode())
    assert small_job(tmp_path, tiny_checkpoint, tasks=[task]).plans[0].id != before


def test_the_identity_of_small_files_is_what_it_was(tmp_path: Path) -> None:
    # Made by the version before larger files were hashed as a whole; a trial's id depends on it.
    (tmp_path / "small.parquet").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "middle.parquet").write_bytes(bytes(range(256)) * 6000)
    assert fingerprint([tmp_path / "small.parquet"]) == "files-bcc2241de7c675e8"
    assert fingerprint([tmp_path / "middle.parquet"]) == "files-2e63052dc2a56391"


def test_pictures_that_are_joined_are_part_of_the_identity(tmp_path: Path) -> None:
    from tests.tasks.public import write

    folder = write(tmp_path / "g", "gqa", "testdev_balanced_instructions/*.parquet")
    pictures = next((folder / "testdev_balanced_images").glob("*.parquet"))
    before = task_at(folder, "gqa").revision
    content = bytearray(pictures.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    pictures.write_bytes(bytes(content))
    assert task_at(folder, "gqa").revision != before


def test_rows_of_replaced_files_are_read_anew_in_the_same_process(tmp_path: Path) -> None:
    from tests.tasks.public import write

    folder = write(tmp_path / "v", "vqa_v2", "data/validation-*.parquet")
    first = next(iter(task_at(folder, "vqa_v2").examples("validation")))
    write(tmp_path / "v", "vqa_v2", "data/validation-*.parquet", backwards=True)
    assert next(iter(task_at(folder, "vqa_v2").examples("validation"))).id != first.id


# --- at the cost of a look --------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_read_again(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = task_at(questions).revision
    index._IN_MEMORY.clear()  # as another process finds it
    monkeypatch.setattr(index, "read_with_hint", None)
    assert task_at(questions).revision == revision
    assert len(task_at(questions).subset("", None, 0)) == 4


def test_a_file_too_young_for_its_times_to_tell_is_read_again(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_identity, "SETTLED_NS", 3600 * 10**9)
    task_at(questions)
    read: list[str] = []
    honest = index.read_with_hint
    monkeypatch.setattr(index, "read_with_hint", lambda path, most: read.append(path) or honest(path, most))
    task_at(questions)
    assert len(read) == 4


def test_a_large_file_is_hashed_once_and_again_when_its_times_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"a" * (3 * 2**20))
    hashed: list[Path] = []
    honest = file_identity._hashed
    monkeypatch.setattr(file_identity, "_hashed", lambda path: hashed.append(path) or honest(path))
    assert content_digest(file) == content_digest(file) and len(hashed) == 1
    time.sleep(0.02)
    same_size_and_time(file, b"b" * (3 * 2**20))
    before = content_digest(file)
    assert len(hashed) == 2 and before == honest(file)


def test_many_pictures_are_looked_at_again_only_after_a_while(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MANY_PICTURES", 4)
    monkeypatch.setattr(index, "RECHECK_AFTER", 10**6)
    task_at(questions)
    monkeypatch.setattr(index, "_refresh", None)
    task_at(questions)
    index._IN_MEMORY.clear()


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b.png", "pipe", "data", ""])
def test_what_is_no_regular_file_is_a_fault_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "data").mkdir()
    rows = [{"id": "1", "image": name, "question": "?", "answer": "a"}]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (example,) = task_at(folder / "q.jsonl").subset("", None, 0)
    assert example.picture.fault
    with pytest.raises((OSError, ValueError)):
        example.picture.load()


def test_a_file_that_two_folders_link_to_names_the_pictures_of_each(questions: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "q.jsonl").symlink_to(questions)
    for n in range(4):
        (other / f"{n}.png").write_bytes(picture(n + 10))
    first, second = task_at(questions), task_at(other / "q.jsonl")
    assert colour(sample(first, "1")) != colour(sample(second, "1"))
    assert first.revision != second.revision


def test_a_relative_place_is_that_of_the_working_folder(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(questions.parent)
    expected = colour(sample(task_at(Path("q.jsonl")), "1"))
    index._IN_MEMORY.clear()
    monkeypatch.chdir(questions.parent.parent)
    assert colour(sample(task_at(Path("data/q.jsonl")), "1")) == expected


def test_empty_bytes_beside_a_path_are_no_picture(tmp_path: Path) -> None:
    """Its statistics say that the file holds its pictures, so that one in a file would be no part of its identity."""
    (tmp_path / "0.png").write_bytes(picture(0))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": b"", "path": "0.png"}], kind)
    pq.write_table(pa.table({"id": ["0"], "image": cells, "question": ["?"], "answer": ["a"]}), tmp_path / "p.parquet")
    assert "there is no picture" in sample(task_at(tmp_path / "p.parquet"), "0").picture.fault


def test_base64_in_place_of_a_path_is_told_in_one_line(tmp_path: Path) -> None:
    rows = [{"id": "0", "image": base64.b64encode(picture(0) * 50).decode(), "question": "?", "answer": "a"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fault = sample(task_at(tmp_path / "q.jsonl"), "0").picture.fault
    assert "give a path or bytes, no base64" in fault and len(fault) < 250
