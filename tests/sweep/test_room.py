"""Before Ray is started: its folders can be written and have room, or one sentence says which cannot."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.jobs import job_file
from tests.sweep.sweeps import vlmprof
from vlmprof.errors import UserError
from vlmprof.sweep import room

NOWHERE = "/proc/nowhere"
"""Nobody can make a folder there, root included."""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_where_all_can_be_written_nothing_is_said() -> None:
    room.require_room()


def test_a_home_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", NOWHERE)
    with pytest.raises(UserError, match=f"token in {NOWHERE}/.ray, where nothing can be written .*RAY_AUTH_TOKEN_PATH"):
        room.require_room()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere/token")
    room.require_room()  # then Ray writes nothing there


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_that_cannot_be_written_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, NOWHERE)
    with pytest.raises(UserError, match=f"in {NOWHERE}, where nothing can be written .*; set RAY_TMPDIR to another"):
        room.require_room()


def test_a_full_temporary_folder_is_told_in_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(UserError, match=r"where 1 MiB are free and 64 MiB are needed"):
        room.require_room()


def test_the_command_ends_with_2_and_the_sentence_before_ray_is_started(tmp_path: Path, tiny_checkpoint: Path) -> None:
    job_file(tmp_path, tiny_checkpoint, knobs={"max_crops": [2]}, measure=["accuracy"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "RAY_TMPDIR", NOWHERE)
        done = vlmprof("run", "job.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"Ray keeps its files in {NOWHERE}, where nothing can be written" in " ".join(done.stderr.split())
