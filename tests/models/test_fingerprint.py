"""The fingerprint of a checkpoint covers every byte of its files, and reads large ones once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vlmprof import file_identity
from vlmprof.models import _fingerprint
from vlmprof.models._fingerprint import folder_fingerprint

SUFFIXES = frozenset({".json", ".safetensors"})
SHARD = 3 * 2**20


@pytest.fixture(params=["small", "large"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of two shards; a large one is what is larger than a limit."""
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_identity, "SETTLED_NS", 0)
    if request.param == "large":
        monkeypatch.setattr(_fingerprint, "SMALL_WEIGHTS_BYTES", 2**20)
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    for number in range(2):
        (made / f"model-{number}.safetensors").write_bytes(bytes([number]) * SHARD)
    return made


@pytest.mark.parametrize("place", [0, SHARD // 2, SHARD - 1])
def test_a_byte_anywhere_changes_it_also_with_size_and_time_put_back(folder: Path, place: int) -> None:
    before, shard = folder_fingerprint(folder, SUFFIXES), folder / "model-1.safetensors"
    status = shard.stat()
    with shard.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\7")
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert folder_fingerprint(folder, SUFFIXES) != before


def test_a_copy_has_the_same_and_other_files_are_not_in_it(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # with times of its own
    (copy / "README.md").write_text("what no answer depends on")
    assert folder_fingerprint(copy, SUFFIXES) == folder_fingerprint(folder, SUFFIXES)


def test_a_renamed_shard_is_another_checkpoint(folder: Path) -> None:
    before = folder_fingerprint(folder, SUFFIXES)
    (folder / "model-1.safetensors").rename(folder / "model-2.safetensors")
    assert folder_fingerprint(folder, SUFFIXES) != before


def test_large_files_are_read_once_on_a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder_fingerprint(folder, SUFFIXES)
    if _fingerprint.SMALL_WEIGHTS_BYTES > SHARD:
        return
    read: list[str] = []
    hashed = file_identity._hashed
    monkeypatch.setattr(file_identity, "_hashed", lambda file: (read.append(file.name), hashed(file))[1])
    _fingerprint._remembered.cache_clear()  # as another process
    assert folder_fingerprint(folder, SUFFIXES) == before
    assert read == ["config.json"], "what is small is not kept"
    (folder / "model-0.safetensors").touch()
    assert folder_fingerprint(folder, SUFFIXES) == before
    assert sorted(read) == ["config.json", "config.json", "model-0.safetensors"]  # several threads read


def test_a_long_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_fingerprint, "LONG_BYTES", SHARD)
    for _ in range(2):
        folder_fingerprint(folder, SUFFIXES)
        _fingerprint._remembered.cache_clear()
    large = _fingerprint.SMALL_WEIGHTS_BYTES < SHARD
    assert caplog.text.count("to identify the weights") == large


def test_small_checkpoints_keep_the_fingerprint_that_they_had(tmp_path: Path) -> None:
    # Made by the version before large ones were read; the ids of their trials depend on it.
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    assert folder_fingerprint(tmp_path, SUFFIXES) == "370d9c490598a263"
