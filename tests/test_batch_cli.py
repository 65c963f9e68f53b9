"""``vlmprof batch`` as it is typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trial.sizing.devices import Device
from tests.trial.sizing.test_journal import ABOUT, settle
from vlmprof.cli import app
from vlmprof.errors import UserError
from vlmprof.trial.sizing.atlas import FOLDER
from vlmprof.trial.sizing.book import SizeBook
from vlmprof.trial.sizing.journal import Journal


def test_worlds_are_shown_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    run = CliRunner()
    assert "nothing was measured yet" in run.invoke(app, ["batch", "show"]).output
    settle(Journal(tmp_path / "abc-1.jsonl", {**ABOUT, "device": "Some GPU"}, SizeBook()), Device())
    shown = run.invoke(app, ["batch", "show"]).output
    assert "abc-1" in shown and "Some GPU" in shown
    assert isinstance(run.invoke(app, ["batch", "clear"]).exception, UserError)
    assert isinstance(run.invoke(app, ["batch", "clear", "zzz"]).exception, UserError)
    assert "forgot abc-1" in run.invoke(app, ["batch", "clear", "abc"]).output
    assert not list(tmp_path.glob("*.jsonl"))
