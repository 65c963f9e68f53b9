"""A real cluster's Jobs API: a sweep is submitted, its driver killed, submitted again, fetched, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import requests
from PIL import Image
from typer.testing import CliRunner

from tests.conftest import RAY_HOMES, SECRET, TOKEN
from tests.jobs import job_file
from tests.sweep.secret_files import files_with
from tests.sweep.sweeps import samples, starts, vlmprof, what_was_measured
from vlmprof.cli import app
from vlmprof.errors import UserError
from vlmprof.store.ledger import read_states
from vlmprof.submit.client import JobsClient, whereabouts

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray's client to aiohttp
]

ONE_WORKER = {"cpus": 2, "threads": 1}
"""Of the cluster's two CPUs; the ids of trials are those of one CPU."""


class Terminal:
    """A user's terminal: commands, and all that they have printed."""

    def __init__(self, address: str) -> None:
        self.address, self.printed = address, ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*arguments, "--address", self.address])
        self.printed += done.output
        if isinstance(done.exception, UserError):
            raise done.exception
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done.output


@pytest.fixture
def terminal(dashboard: str) -> Iterator[Terminal]:
    terminal = Terminal(dashboard)
    yield terminal
    assert TOKEN.read_text() not in terminal.printed and SECRET not in terminal.printed


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(2400):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing happened for two minutes")


def test_a_sweep_whose_driver_is_killed_and_that_is_submitted_again_loses_and_doubles_nothing(
    tmp_path: Path, tiny_checkpoint: Path, dashboard: str, storage: Path, terminal: Terminal, undisturbed: Path
) -> None:
    path = job_file(tmp_path, tiny_checkpoint, storage="results/killed", resources=ONE_WORKER)
    there, jobs = storage / "killed", JobsClient(dashboard)
    assert f"results in {there}" in terminal("submit", str(path))
    first = jobs.find("small")
    assert "attached to" in terminal("submit", str(path)), "the same job, submitted twice, runs once"
    wait_for(lambda: "done" in read_states(there).values())
    os.kill(driver_of(dashboard, first.id), signal.SIGKILL)
    wait_for(lambda: jobs.info(first.id).ended)
    finished = [trial for trial, state in read_states(there).items() if state == "done"]
    assert 1 <= len(finished) < 4, "killed too late to be in the middle"

    told = terminal("submit", str(path), "--follow")
    assert f"submitted {first.id}-r2" in told and f"{first.id}-r2: succeeded" in told
    assert f"Next:   vlmprof fetch {first.id}-r2 DIR --address {dashboard} && vlmprof plot DIR" in told
    assert f"dashboard: {dashboard}, log in with the cluster's token" in told and "vlmprof run" not in told
    assert all(starts(there).count(trial) == 1 for trial in finished), "what was finished ran again"

    here = tmp_path / "fetched"
    assert "files in" in terminal("fetch", "small", str(here))
    for folder in (there, here):
        pd.testing.assert_frame_equal(samples(folder), samples(undisturbed))
        pd.testing.assert_frame_equal(what_was_measured(folder), what_was_measured(undisturbed))
    assert "has succeeded already" in terminal("submit", str(path))
    assert {job["metadata"].get("job_name") for job in asked(dashboard, "/api/jobs/")} >= {"small"}
    listed = terminal("jobs")
    assert "failed (137)" in listed and "succeeded" in listed and "fetch-" not in listed
    assert whereabouts(dashboard, "small").results == str(there)
    secrets_are_nowhere(terminal("logs", "small"), json.dumps(asked(dashboard, "/api/jobs/")), *texts_in(here))
    assert not files_with(SECRET, *RAY_HOMES, there, here)


def driver_of(dashboard: str, id_: str) -> int:
    """The process on the cluster that drives a submitted sweep."""
    return int(wait_for(lambda: asked(dashboard, f"/api/jobs/{id_}").get("driver_info"))["pid"])


def asked(dashboard: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN.read_text()}"}
    return requests.get(f"{dashboard}{path}", headers=headers, timeout=30).json()


def texts_in(folder: Path) -> Iterator[str]:
    """Everything in a results folder, as text."""
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield f"{table.schema.metadata} {[field.metadata for field in table.schema]} {table.to_pylist()}"
        elif path.is_file():
            yield path.read_text()


def secrets_are_nowhere(*texts: str) -> None:
    assert len(texts) > 10
    for text in texts:
        assert TOKEN.read_text() not in text and SECRET not in text


def test_stop_is_heard_and_the_next_attempt_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, dashboard: str, storage: Path, terminal: Terminal
) -> None:
    knobs = {"trouble": ["slow"], "max_crops": [1]}
    tasks = [{"name": "shapes_qa", "samples": 900}]
    one_by_one = {"size": 1, "audit_samples": 0}  # minutes, on any machine
    path = job_file(tmp_path, tiny_checkpoint, name="stopped", knobs=knobs, tasks=tasks, batch=one_by_one, storage="")
    terminal("submit", str(path))
    wait_for(lambda: "started" in read_states(storage / "stopped").values())
    told = terminal("stop", "stopped")
    assert "stopped; finished trials are kept" in told
    log = terminal("logs", "stopped")
    assert "interrupted" in log, "the driver was killed before it could say how to go on"
    assert f"Resume: vlmprof submit {path} --address {terminal.address}" in log
    assert "has ended already: stopped" in terminal("stop", "stopped")


@pytest.mark.exhaustive
def test_local_data_travel_and_the_workers_read_them(
    tmp_path: Path, tiny_checkpoint: Path, storage: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for n in range(6):
        Image.new("RGB", (40 + n, 30)).save(f"mine/{n}.png")
    rows = [{"image": f"{n}.png", "question": f"What is {n}?", "answer": "a"} for n in range(6)]
    Path("mine/questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"name": "local", "metric": "exact_match", "path": "mine/questions.jsonl"}]
    sections: dict[str, Any] = {"tasks": tasks, "measure": ["accuracy"], "knobs": {"max_crops": [1, 4]}}
    path = job_file(tmp_path, tiny_checkpoint, name="mine", storage="", **sections)
    assert "with 7 files of data" in terminal("submit", str(path), "--with-data", "--follow")
    here = job_file(tmp_path, tiny_checkpoint, name="mine", **sections)
    assert vlmprof("run", "--inline", str(here), cwd=tmp_path).returncode == 0
    pd.testing.assert_frame_equal(samples(storage / "mine"), samples(tmp_path / "results"))


def test_what_is_wrong_is_said_before_anything_is_sent(
    tmp_path: Path, tiny_checkpoint: Path, dashboard: str, terminal: Terminal
) -> None:
    path, before = job_file(tmp_path, tiny_checkpoint, name="never"), JobsClient(dashboard).list_sweeps()
    with pytest.raises(UserError, match="--env HF_TOKEN looks like a secret, by its name"):
        terminal("submit", str(path), "--env", f"HF_TOKEN={SECRET}")
    with pytest.raises(UserError, match="--env SPEED looks like a token of the Hugging Face Hub"):
        terminal("submit", str(path), "--env", f"SPEED={SECRET}")
    with pytest.raises(UserError, match="only the cluster's owner sets VLMPROF_STORAGE"):
        terminal("submit", str(path), "--env", "VLMPROF_STORAGE=/")
    with pytest.raises(UserError, match="no job 'nevr' on"):
        terminal("logs", "nevr")
    assert JobsClient(dashboard).list_sweeps() == before
