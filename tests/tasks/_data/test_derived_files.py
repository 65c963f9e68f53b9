"""Derived files (indexes, digests, decoded pictures) are rebuilt where they are damaged; what is no file is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmprof import file_identity
from vlmprof.errors import UserError
from vlmprof.local_cache import read_cached, write_cached
from vlmprof.tasks._data import decode, index
from vlmprof.tasks._data.cache import PixelCache
from vlmprof.tasks._data.index import Columns, IndexedRow, read_index

COLUMNS = Columns(required=("question",))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_identity, "SETTLED_NS", 0)
    monkeypatch.setattr(index, "_IN_MEMORY", {})
    return tmp_path / "cache"


@pytest.fixture
def questions(tmp_path: Path, kept: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    rows = [{"question": f"{name}?", "image": f"{name}.png"} for name in "ab"]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "q.jsonl"


def rows_of(file: Path) -> list[IndexedRow]:
    index._IN_MEMORY.clear()  # as another process
    return read_index([file], COLUMNS)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def one_byte_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x20
    path.write_bytes(bytes(content))


def a_tail_of_zeros(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGE = [cut, emptied, zeroed, one_byte_flipped, a_tail_of_zeros, a_pipe, a_folder, a_dangling_link, a_device]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_again(questions: Path, kept: Path, damage: Callable[[Path], None]) -> None:
    before = rows_of(questions)
    for place in (kept / "index").iterdir():
        damage(place)
    assert rows_of(questions) == before == rows_of(questions)


def test_every_byte_of_an_index_that_is_flipped_is_noticed(questions: Path, kept: Path) -> None:
    rows_of(questions)
    (place,) = (kept / "index").iterdir()
    content = place.read_bytes()
    for at in range(0, len(content), 7):
        place.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert read_cached(place) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_picture_is_decoded_again(questions: Path, kept: Path, damage: Callable[[Path], None]) -> None:
    rows = rows_of(questions)
    before = [row.picture.load().tobytes() for row in rows]
    places = list((kept / "pictures").iterdir())
    assert len(places) == 2
    for place in places:
        damage(place)
    assert [row.picture.load().tobytes() for row in rows] == before
    assert [row.picture.load().tobytes() for row in rows] == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_digest_is_computed_again(tmp_path: Path, kept: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(3 * 2**20))
    known = file_identity.content_digest(file)
    assert file_identity.kept_digest(file) == known
    (place,) = (kept / "digests").iterdir()
    damage(place)
    assert file_identity.kept_digest(file) == ""
    assert file_identity.content_digest(file) == known


def test_what_was_written_is_read_and_a_file_without_its_digest_is_not(tmp_path: Path) -> None:
    write_cached(tmp_path / "x", b"content")
    assert read_cached(tmp_path / "x") == b"content"
    (tmp_path / "x").write_bytes(b"as an earlier version wrote it")
    assert read_cached(tmp_path / "x") is None


# --- what is no file, or has no end -----------------------------------------------------------------------------------


def picture_fault(questions: Path) -> str:
    return rows_of(questions)[0].picture.fault


@pytest.mark.timeout(30)
@pytest.mark.parametrize("odd", [a_pipe, a_device, a_folder])
def test_a_picture_that_is_no_file_is_a_fault_at_once(questions: Path, odd: Callable[[Path], None]) -> None:
    odd(questions.parent / "a.png")
    assert "regular file" in picture_fault(questions) or "directory" in picture_fault(questions)
    assert rows_of(questions)[1].picture.fault == ""
    with pytest.raises(OSError, match=r"regular file|directory"):
        decode.decode(questions.parent / "a.png")


def test_a_picture_of_any_size_is_not_read(questions: Path) -> None:
    os.truncate(questions.parent / "a.png", decode.MOST_ENCODED_BYTES + 1)
    assert "is larger than 1 GiB" in picture_fault(questions)


def test_a_picture_that_was_replaced_by_a_pipe_is_not_waited_for(questions: Path) -> None:
    rows = rows_of(questions)
    a_pipe(questions.parent / "a.png")
    with pytest.raises(OSError, match="is not a regular file"):
        rows[0].picture.load()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 200_000, "nested too deep"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"question": ' + b"9" * 9999 + b"}", "not JSON"),
    ],
)
def test_rows_that_cannot_be_read_are_a_sentence(questions: Path, content: bytes, said: str) -> None:
    questions.write_bytes(content)
    with pytest.raises(UserError, match=said):
        rows_of(questions)


def test_rows_without_end_are_a_sentence(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(questions, 2**37)
    monkeypatch.setattr(index, "content_digest", lambda file: "x")
    with pytest.raises(UserError, match="larger than 64 GiB"):
        rows_of(questions)
    os.truncate(questions, 0)
    questions.write_text(" " * 5000)
    monkeypatch.setattr(index, "MOST_CHARACTERS_OF_LINE", 1000)
    with pytest.raises(UserError, match="a line has more than 1,000 characters"):
        rows_of(questions)


def test_the_default_cache_is_the_one_that_is_damaged_here(kept: Path) -> None:
    assert PixelCache.default()._folder == kept / "pictures"


@pytest.mark.parametrize("damage", [cut, emptied, zeroed, a_tail_of_zeros])
def test_a_damaged_parquet_file_of_rows_is_a_sentence(
    tmp_path: Path, kept: Path, damage: Callable[[Path], None]
) -> None:
    table = pa.table({"question": ["what?"] * 200, "answer": ["that"] * 200, "image": ["a.png"] * 200})
    pq.write_table(table, tmp_path / "q.parquet")
    damage(tmp_path / "q.parquet")
    with pytest.raises(
        UserError, match=r"q\.parquet is no Parquet file that can be read: .*; copy it again"
    ) as refused:
        rows_of(tmp_path / "q.parquet")
    assert "\n" not in str(refused.value)
