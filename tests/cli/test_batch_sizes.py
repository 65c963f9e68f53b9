"""``vlmprof batch`` as it is typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.batch_size.devices import Device
from tests.batch_size.test_cache import ABOUT, settle
from vlmprof.batch_size.cache import FOLDER, CacheFile
from vlmprof.batch_size.coordinator import ProbeCoordinator
from vlmprof.cli import app
from vlmprof.errors import UserError


def test_worlds_are_shown_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    run = CliRunner()
    assert "nothing was measured yet" in run.invoke(app, ["batch", "show"]).output
    settle(CacheFile(tmp_path / "abc-1.jsonl", {**ABOUT, "device": "Some GPU"}, ProbeCoordinator()), Device())
    shown = run.invoke(app, ["batch", "show"]).output
    assert "abc-1" in shown and "Some GPU" in shown
    assert isinstance(run.invoke(app, ["batch", "clear"]).exception, UserError)
    assert isinstance(run.invoke(app, ["batch", "clear", "zzz"]).exception, UserError)
    assert "deleted abc-1" in run.invoke(app, ["batch", "clear", "abc"]).output
    assert not list(tmp_path.glob("*.jsonl"))
