"""The caches of pictures and indexes are optional: full, read-only, damaged or absent, they fail nothing."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.tasks.public import picture
from vlmprof import local_cache, registry
from vlmprof.records import Example
from vlmprof.tasks._data import index
from vlmprof.tasks._data.cache import PixelCache
from vlmprof.tasks.task import DataSource, Task

WHOLE_TASK = """
import ctypes, sys
from vlmprof import registry
from vlmprof.tasks.task import DataSource
if sys.argv[2:]:  # without root's capabilities, so that permissions hold for this process too
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
task = registry.load("tasks", "local").at(DataSource(path=sys.argv[1], metric="exact_match"))
for _ in range(2):
    print([one.picture.load().getpixel((0, 0)) for one in task.subset("", None, 0)])
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cache, "_DONE_WITHOUT", set())
    index._IN_MEMORY.clear()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    rows = [{"id": str(n), "image": f"{n}.png", "question": "?", "answer": "a"} for n in range(3)]
    for n in range(3):
        (tmp_path / "data" / f"{n}.png").write_bytes(picture(n))
    (tmp_path / "data" / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data" / "q.jsonl"


def examples(path: Path) -> tuple[Example, ...]:
    task: Task = registry.load("tasks", "local")
    assert task.at is not None
    return task.at(DataSource(path=str(path), metric="exact_match")).subset("", None, 0)


def colours(path: Path) -> dict[str, Any]:
    return {example.id: example.picture.load().getpixel((0, 0)) for example in examples(path)}


RIGHT = {"0": (0, 90, 0), "1": (37, 90, 11), "2": (74, 90, 22)}


@pytest.mark.parametrize("place", ["/proc/vlmprof", "/dev/null", "/dev/null/below", "a file"])
def test_a_folder_that_cannot_be_is_done_without_and_said_once(
    questions: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "file") if place == "a file" else place)
    with caplog.at_level(logging.WARNING, "vlmprof"):
        assert colours(questions) == RIGHT
        assert colours(questions) == RIGHT
    folders = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert folders and len(folders) == len(set(folders)), "once for each"
    assert "VLMPROF_CACHE" in caplog.text


def test_a_read_only_folder_serves_what_it_has(questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    environment = {**os.environ, "VLMPROF_CACHE": str(folder)}
    command = [sys.executable, "-c", WHOLE_TASK, str(questions)]
    before = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (questions.parent / "1.png").write_bytes(picture(2))
    after = subprocess.run([*command, "no capabilities"], env=environment, capture_output=True, text=True, check=True)
    assert after.stdout == before.replace("(37, 90, 11)", "(74, 90, 22)")
    assert "is done without (PermissionError" in after.stderr


def test_a_full_disk_costs_the_cache_and_leaves_no_partial_file(questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def no_more_than_a_kilobyte() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        [sys.executable, "-c", WHOLE_TASK, str(questions)],
        env={**os.environ, "VLMPROF_CACHE": str(folder)},
        preexec_fn=no_more_than_a_kilobyte,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second and "(37, 90, 11)" in first
    assert "is done without" in done.stderr and not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("content", [b"", b"garbage", b"ARROW1\0\0" + b"\0" * 400, None])
def test_damaged_files_are_replaced(
    questions: Path, tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    assert colours(questions) == RIGHT
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".arrow", ".parquet"}
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    index._IN_MEMORY.clear()
    assert colours(questions) == RIGHT
    assert colours(questions) == RIGHT
    assert all(pa.ipc.open_file(path).num_record_batches == 1 for path in (tmp_path / "cache").rglob("*.arrow"))


def test_pixels_that_are_not_those_that_were_written_are_never_used(tmp_path: Path) -> None:
    from PIL import Image

    cache = PixelCache(tmp_path, 2**20)
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cache.put("k", Image.fromarray(noise))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[content.index(noise.tobytes()) + 5000] ^= 1  # a block that was never written reads as zeros
    file.write_bytes(content)
    assert cache.get("k") is None and not file.exists()


@pytest.mark.parametrize("limit", ["much", "nan", "-1", "inf"])
def test_a_limit_that_is_no_number_is_said_and_the_default_used(
    limit: str, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / limit))
    monkeypatch.setenv("VLMPROF_CACHE_GIB", limit)
    with caplog.at_level(logging.WARNING, "vlmprof"):
        assert colours(questions) == RIGHT
    assert "VLMPROF_CACHE_GIB" in caplog.text and list((tmp_path / limit).rglob("*.arrow"))
