"""What a submitted job advises: commands that work where it was submitted, and none for the cluster's own disk."""

from __future__ import annotations

import json
import os
import platform
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.jobs import job_file
from vlmprof.cli import app
from vlmprof.cli.advice import Advice
from vlmprof.errors import UserError
from vlmprof.submit.connection import DEFAULT
from vlmprof.submit.origin import AGAIN, JOB_CONFIG, Origin, login, origin
from vlmprof.sweep.cluster import _no_cluster
from vlmprof.sweep.retries import MAX_CRASHES, TunerBackoff

ONE = {"knobs": {"max_crops": [4]}, "measure": ["accuracy"], "batch": {"max": 2, "audit_samples": 0}}
ID, ELSEWHERE = "small-6b1e0c2d3f-r2", "http://10.1.2.3:8265"
SUBMITTED = f"vlmprof submit mine.yaml --with-data --address {ELSEWHERE}"
FETCH = f"vlmprof fetch {ID} DIR --address {ELSEWHERE}"


def config(**metadata: str) -> str:
    """What Ray 2.60 puts into the environment of a job's first process."""
    return json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": ID, **metadata}})


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_CONFIG, config(vlmprof="sweep", again=SUBMITTED, address=ELSEWHERE))


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["run", "--inline", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"metadata": 3}', config(), config(vlmprof="fetch"), '{"metadata": {"vlmprof": "sweep"}}']
)
def test_other_processes_have_no_origin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(JOB_CONFIG, text)
    assert origin() is None
    monkeypatch.delenv(JOB_CONFIG)
    assert origin() is None


def test_the_default_address_is_not_repeated_and_an_earlier_client_names_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(JOB_CONFIG, config(vlmprof="sweep"))
    assert origin() == Origin(id=ID, again=AGAIN, address="")
    assert Origin(id=ID, again=AGAIN, address=DEFAULT).command("logs", "-f") == f"vlmprof logs {ID} -f"


@pytest.mark.usefixtures("submitted")
def test_a_sweep_that_ends_says_how_to_fetch_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "measure": ["accuracy", "latency"]})
    told = run(str(path)).output
    assert f"Next:   {FETCH} && vlmprof plot DIR" in told
    assert f"results in {tmp_path / 'results'} on {platform.node()}" in told
    assert "vlmprof run" not in told and f"plot {tmp_path}" not in told


@pytest.mark.usefixtures("submitted")
@pytest.mark.parametrize(("trouble", "code"), [("raise", 3), ("oom", 0)])
def test_trials_that_fail_say_where_the_reasons_are(
    tmp_path: Path, tiny_checkpoint: Path, trouble: str, code: int
) -> None:
    told = run(str(job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": [trouble]}})), code=code).output
    assert f"'{FETCH} && vlmprof status DIR'" in told
    assert (f"run again with '{SUBMITTED}'" in told) == (trouble == "raise")
    assert "vlmprof run" not in told and f"status {tmp_path}" not in told


def interrupted(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("submitted")
def test_a_job_that_is_stopped_is_submitted_again(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprof.api.run", interrupted)
    assert f"Resume: {SUBMITTED}\n" in run(str(job_file(tmp_path, tiny_checkpoint, **ONE)), code=130).stderr


def test_without_a_submission_the_same_command_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprof.api.run", interrupted)
    (tmp_path / "my jobs").mkdir()
    path = job_file(tmp_path / "my jobs", tiny_checkpoint, **ONE)
    told = run(str(path), "--only", "max_crops=4", "--address", "10.0.0.1:6379", "--limit", "1", code=130).stderr
    assert f"Resume: vlmprof run '{path}' --only=max_crops=4 --inline --address=10.0.0.1:6379\n" in told


def test_results_in_an_object_store_are_read_from_anywhere() -> None:
    advice = Advice(again=SUBMITTED, origin=Origin(id=ID, again=SUBMITTED, address=""))
    assert advice.reading("plot", "s3://bucket/small") == "vlmprof plot s3://bucket/small"
    assert advice.place("s3://bucket/small") == "s3://bucket/small"


@pytest.mark.usefixtures("submitted")
def test_errors_of_a_submitted_job_name_its_submission() -> None:
    backoff = TunerBackoff()
    with pytest.raises(UserError, match=f"'{SUBMITTED} -v' shows its messages"):
        for _ in range(MAX_CRASHES):
            backoff.pause(progressed=False, crashed=False, low_memory=False)
    assert SUBMITTED in str(_no_cluster("auto", "gone")) and "ray start" not in str(_no_cluster("auto", "gone"))


def test_the_dashboard_is_named_as_its_reader_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    here = "127.0.0.1:8265"
    assert login(here, asks_for_token=True) == f"dashboard: http://{here}, log in with the token in /home/me/token"
    assert login(here, asks_for_token=False) == f"dashboard: http://{here}"
    monkeypatch.setenv(JOB_CONFIG, config(vlmprof="sweep", again=SUBMITTED, address=ELSEWHERE))
    assert login(here, asks_for_token=True) == f"dashboard: {ELSEWHERE}, log in with the cluster's token"


def test_submit_tells_the_job_how_it_was_submitted(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def submit(*_: object, **options: object) -> tuple[SimpleNamespace, str]:
        sent.update(options)
        return SimpleNamespace(id=ID, began=0.0), "done"

    monkeypatch.setattr("vlmprof.cli.submit._connect", lambda address: SimpleNamespace(submit=submit))
    path = job_file(tmp_path, tiny_checkpoint, **ONE)
    typed = ["submit", str(path), "--address", ELSEWHERE, "--env", "A=b c", "-y", "-v", "--follow"]
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    assert sent["command"] == f"vlmprof submit {path} '--env=A=b c' --yes --verbose --address {ELSEWHERE}"
    assert sent["options"] == ["--yes", "--verbose"]
