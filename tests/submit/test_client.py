"""Submissions against a Jobs API that is played: attempts, attaching, and what a failure is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.jobs import job_file
from vlmprof.cli import submit
from vlmprof.errors import UserError
from vlmprof.submit.bundle import JobBundle, pack
from vlmprof.submit.client import ROOT, JobsClient
from vlmprof.submit.connection import Connection
from vlmprof.submit.origin import AGAIN
from vlmprof.submit.startup_report import MARK, StartupReport, find_report, startup_report


@dataclass
class Played:
    """The part of Ray's client that is used; jobs do what they are told."""

    jobs: dict[str, SimpleNamespace] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    breaks: list[int] = field(default_factory=list)
    """Characters after which each connection to a log breaks."""
    shown: list[int] = field(default_factory=list)
    """Characters that are in the log, each time it is asked for as a whole; then all."""
    taken: set[str] = field(default_factory=set)

    def list_jobs(self) -> list[SimpleNamespace]:
        foreign = job("raysubmit_x", {}, "RUNNING")
        return [*self.jobs.values(), foreign, job("fetch-1", {"vlmprof": "fetch"}, "RUNNING")]

    def submit_job(self, **said: Any) -> None:
        if said["submission_id"] in self.taken:
            self.jobs[said["submission_id"]] = job(said["submission_id"], said["metadata"], "PENDING")
            raise RuntimeError("Request failed with status code 500: ... Job with id x already exists.")
        folder = Path(said["runtime_env"]["working_dir"])
        self.sent.append({**said, "files": sorted(path.name for path in folder.iterdir())})
        self.jobs[said["submission_id"]] = job(said["submission_id"], said["metadata"], "PENDING")

    def get_job_info(self, id_: str) -> SimpleNamespace:
        return self.jobs[id_]

    def get_job_logs(self, id_: str) -> str:
        return self.log[: self.shown.pop(0)] if self.shown else self.log

    async def tail_job_logs(self, id_: str) -> AsyncIterator[str]:
        after = self.breaks.pop(0) if self.breaks else None
        for start in range(0, len(self.log), 7):
            if after is not None and start >= after:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield self.log[start : start + 7]
        self.jobs[id_].status = "SUCCEEDED"


def job(id_: str, about: dict[str, str], status: str, code: int | None = None, at: int = 1000) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=id_,
        metadata=about,
        status=status,
        start_time=at,
        end_time=None,
        message="",
        driver_exit_code=code,
    )


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def jobs(played: Played) -> JobsClient:
    reached = object.__new__(JobsClient)
    reached.connection, reached._client = Connection(url="http://played", ray="2.60.0", token="t" * 64), played
    return reached


@pytest.fixture
def bundle(tmp_path: Path, tiny_checkpoint: Path) -> JobBundle:
    return pack(job_file(tmp_path, tiny_checkpoint, storage=""), with_data=False)


def test_a_new_job_is_sent_with_all_that_stops_it_gently(jobs: JobsClient, played: Played, bundle: JobBundle) -> None:
    found, how = jobs.submit(bundle, {"HF_HUB_OFFLINE": "1"}, again=False)
    assert (found.id, how, found.name, found.attempt) == (bundle.id, "new", "small", 1)
    (sent,) = played.sent
    assert sent["files"] == ["job.yaml"] and sent["entrypoint_num_cpus"] == 0
    assert sent["runtime_env"]["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "HF_HUB_OFFLINE": "1",
    }
    assert sent["entrypoint"].startswith(ROOT) and "vlmprof.cli run job.yaml --address auto" in sent["entrypoint"]
    assert jobs.connection.token not in str(sent)
    about = sent["metadata"]
    assert (about["job_name"], about["again"], about["address"]) == ("small", AGAIN, "http://played")
    jobs.submit(bundle, {}, again=True, options=["--yes", "--verbose"], command="vlmprof submit x.yaml")
    assert len(played.sent) == 1, "it runs, so that it is attached to"
    played.jobs[bundle.id].status = "FAILED"
    jobs.submit(bundle, {}, again=False, options=["--yes", "--verbose"], command="vlmprof submit x.yaml")
    assert played.sent[1]["entrypoint"].endswith("run job.yaml --address auto --yes --verbose")
    assert played.sent[1]["metadata"]["again"] == "vlmprof submit x.yaml"


def test_an_absolute_storage_needs_no_root_and_an_open_cluster_no_token(
    jobs: JobsClient, played: Played, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    jobs.connection = Connection(url="http://played", ray="2.60.0")
    jobs.submit(pack(job_file(tmp_path, tiny_checkpoint, storage="/mnt/x"), with_data=False), {}, again=False)
    assert not played.sent[0]["entrypoint"].startswith("export")
    assert played.sent[0]["runtime_env"]["env_vars"]["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_that_runs_is_attached_to(jobs: JobsClient, played: Played, bundle: JobBundle, status: str) -> None:
    jobs.submit(bundle, {}, again=False)
    played.jobs[bundle.id].status = status
    found, how = jobs.submit(bundle, {}, again=True)
    assert (found.id, how, len(played.sent)) == (bundle.id, "attached", 1)


def test_attempts_are_counted_and_success_is_the_last(jobs: JobsClient, played: Played, bundle: JobBundle) -> None:
    jobs.submit(bundle, {}, again=False)
    for status, attempt in [("FAILED", 2), ("STOPPED", 3), ("FAILED", 4)]:
        played.jobs[max(played.jobs)].status = status
        found, how = jobs.submit(bundle, {}, again=False)
        assert (found.id, how, found.attempt) == (f"{bundle.id}-r{attempt}", "new", attempt)
    played.jobs[f"{bundle.id}-r4"].status = "SUCCEEDED"
    assert jobs.submit(bundle, {}, again=False)[1] == "done"
    assert jobs.submit(bundle, {}, again=True)[0].id == f"{bundle.id}-r5"
    assert {one.base for one in jobs.list_sweeps()} == {bundle.id}, "foreign jobs and fetches are not listed"


def test_two_who_submit_at_once_share_one_job(jobs: JobsClient, played: Played, bundle: JobBundle) -> None:
    played.taken.add(bundle.id)
    found, how = jobs.submit(bundle, {}, again=False)
    assert (found.id, how, played.sent) == (bundle.id, "attached", [])


def test_a_job_is_found_by_id_base_and_name(jobs: JobsClient, played: Played) -> None:
    about = {"vlmprof": "sweep", "name": "small"}
    for n, id_ in enumerate(["small-aaaaaaaaaa", "small-aaaaaaaaaa-r2", "small-bbbbbbbbbb"]):
        played.jobs[id_] = job(id_, about, "FAILED", at=1000 + n)
    assert jobs.find("small-aaaaaaaaaa").attempt == 1, "an id that is there is meant as it stands"
    assert jobs.find("small").id == "small-bbbbbbbbbb"
    del played.jobs["small-aaaaaaaaaa"]
    assert jobs.find("small-aaaaaaaaaa").attempt == 2
    with pytest.raises(UserError, match="did you mean 'small-bbbbbbbbbb'"):
        jobs.find("small-bbbbbbbbb")


def test_a_log_is_told_once_though_the_connection_breaks(jobs: JobsClient, played: Played, bundle: JobBundle) -> None:
    jobs.submit(bundle, {}, again=False)
    played.log = "".join(f"line {n}\n" for n in range(50))
    played.breaks, played.shown = [0, 30, 31, 200], [0, 33, 33, 210]
    heard: list[str] = []
    assert jobs.follow(bundle.id, heard.append).state == "SUCCEEDED"
    assert "".join(heard) == played.log


def test_a_log_is_told_though_no_connection_holds(jobs: JobsClient, played: Played, bundle: JobBundle) -> None:
    jobs.submit(bundle, {}, again=False)
    played.log, played.breaks, played.shown = "one\ntwo\nthree\n", [0] * 9, [0, 4, 4, 8]
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(text)
        if "three" in text:
            played.jobs[bundle.id].status = "FAILED"

    assert jobs.follow(bundle.id, hear).state == "FAILED"
    assert "".join(heard) == played.log


def test_arrival_is_read_from_the_log_and_nothing_else(tmp_path: Path, tiny_checkpoint: Path) -> None:
    here = startup_report(job_file(tmp_path, tiny_checkpoint, storage="/mnt/x/small"))
    assert here.results == "/mnt/x/small"
    (tmp_path / "faulty.yaml").write_text("name: x")
    assert startup_report(tmp_path / "faulty.yaml").results == "", "the job says itself what is wrong with it"
    line = '{"vlmprof": "1", "python": "3.12.1", "host": "head", "results": "/r"}'
    assert find_report(f"setting up\n{MARK}{line}\n") == StartupReport(
        vlmprof="1", python="3.12.1", host="head", results="/r"
    )
    for log in ("", f"x {MARK}{line}", f"{MARK}{line[:20]}", f'{MARK}{{"vlmprof": "1"}}'):
        assert find_report(log) is None


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (1, "/usr/bin/python: No module named vlmprof", "vlmprof is not installed"),
        (
            1,
            "/x/python: Error while finding module specification for 'vlmprof.submit.startup_report'"
            " (ModuleNotFoundError: No module named 'vlmprof')",
            "vlmprof is not installed",
        ),
        (1, "Running entrypoint: vlmprof\nNo module named 'torch'", "began (failed): No module named 'torch'"),
        (127, "sh: 1: python: not found", "no 'python' on the PATH"),
        (1, "one\nImportError: libtorch.so\n\n", "ended before it began (failed): ImportError: libtorch.so"),
        (None, "", "ended before it began (failed): it printed nothing"),
    ],
)  # fmt: skip
def test_why_a_job_never_began(jobs: JobsClient, played: Played, code: int | None, log: str, said: str) -> None:
    played.jobs["small-aaaaaaaaaa"] = job("small-aaaaaaaaaa", {"name": "small"}, "FAILED", code)
    played.log = log
    with pytest.raises(UserError) as raised:
        submit._print_startup(jobs, jobs.info("small-aaaaaaaaaa"), "http://played")
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("status", "code", "exit_code"), [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1),
                                                           ("STOPPED", None, 130), ("FAILED", -9, 137)])  # fmt: skip
def test_a_follower_ends_as_the_sweep_did(
    jobs: JobsClient, played: Played, status: str, code: int | None, exit_code: int
) -> None:
    played.jobs["x"] = job("x", {}, status, code)
    assert jobs.info("x").exit_code == exit_code
