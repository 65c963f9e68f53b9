"""Sweeps as jobs on a Ray cluster, over its Jobs API: HTTP to the dashboard's port, and nothing else.

A submission's id is the name of its job and a digest of its content. Submitting the same job again attaches to it while
it runs, reports that it is done if it has succeeded, and otherwise starts a new attempt (``-r2`` and so on), which runs
what the ledger does not list as finished.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, final

from vlmprof import __version__
from vlmprof.errors import UserError, suggestion
from vlmprof.job.storage import STORAGE, is_anchored
from vlmprof.submit.bundle import JOB, JobBundle
from vlmprof.submit.connection import Connection, connect
from vlmprof.submit.origin import AGAIN, KIND, RAY_JOB_NAME, SWEEP, Origin
from vlmprof.submit.secret_scan import why_secret_variable
from vlmprof.submit.startup_report import StartupReport, find_report
from vlmprof.submit.submission import Submission, of_details

STOP_WAIT_S = 60
"""From SIGINT to SIGKILL: time to finish a ledger line and print how to go on."""
POLL_S = 0.3
ROOT = f'export {STORAGE}="${{{STORAGE}:-$HOME/vlmprof/results}}"; '
"""Sets the root of a relative ``storage``: the job's working directory is deleted after the job."""
SubmitOutcome = Literal["new", "attached", "done"]


@final
class JobsClient:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the cluster.

        Raises:
            UserError: no cluster answers there, or it refuses the token.
        """
        self.connection = connect(address)
        self._client = _client(self.connection)

    def list_sweeps(self) -> list[Submission]:
        """All sweeps that were submitted to this cluster, the newest first."""
        with _user_errors(self.connection):
            jobs: list[Any] = self._client.list_jobs()
        sweeps = [of_details(job) for job in jobs if (job.metadata or {}).get(KIND) == SWEEP and job.submission_id]
        return sorted(sweeps, key=lambda submission: submission.began, reverse=True)

    def find(self, name: str) -> Submission:
        """A submission by its id, by its id without the attempt, or by the name of its job; the newest if several.

        Raises:
            UserError: there is none.
        """
        submissions = self.list_sweeps()
        for attribute in ("id", "base", "name"):
            matches = [submission for submission in submissions if getattr(submission, attribute) == name]
            if matches:
                return max(matches, key=lambda submission: (submission.began, submission.attempt))
        ids = [submission.id for submission in submissions]
        raise UserError(f"no job '{name}' on {self.connection.url}{suggestion(name, ids)}")

    def submit(
        self,
        bundle: JobBundle,
        variables: Mapping[str, str],
        *,
        again: bool,
        options: Sequence[str] = (),
        command: str = AGAIN,
    ) -> tuple[Submission, SubmitOutcome]:
        """Send a job, unless it is already running or done.

        Args:
            bundle: The job.
            variables: For the environment of its processes.
            again: Whether to start a new attempt of a job that has succeeded.
            options: For ``vlmprof run`` on the cluster, such as ``--yes``.
            command: The command that submits it; advice in the job's log names it.

        Raises:
            UserError: a variable looks like a secret.
        """
        for name, value in variables.items():
            _require_public(name, value)
        attempts = [submission for submission in self.list_sweeps() if submission.base == bundle.id]
        last = max(attempts, key=lambda submission: submission.attempt, default=None)
        if last is not None and not last.ended:
            return last, "attached"
        if last is not None and last.state == "SUCCEEDED" and not again:
            return last, "done"
        id_ = f"{bundle.id}-r{last.attempt + 1}" if last else bundle.id
        sent = self._send(Origin(id=id_, again=command, address=self.connection.url), bundle, variables, options)
        return self.info(id_), "new" if sent else "attached"

    def _send(self, origin: Origin, bundle: JobBundle, variables: Mapping[str, str], options: Sequence[str]) -> bool:
        """Submit a job; False if another process has submitted it at the same time."""
        root = "" if is_anchored(bundle.storage) else ROOT
        report = f"{root}python -m vlmprof.submit.startup_report {JOB}"
        run = ["python -m vlmprof.cli run", JOB, "--address auto", *options]
        command = f"{report} && exec {' '.join(run)}"
        metadata = {KIND: SWEEP, "name": bundle.name, RAY_JOB_NAME: bundle.name, "client": __version__, "user": _user()}
        with tempfile.TemporaryDirectory(prefix="vlmprof-bundle-") as folder, _user_errors(self.connection):
            bundle.write(Path(folder))
            try:
                self.run(origin.id, command, metadata | origin.metadata, folder, variables)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def run(
        self,
        id_: str,
        command: str,
        metadata: Mapping[str, str],
        folder: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start a job of any kind on the head node. It reserves no resources, and is stopped by SIGINT."""
        stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        mode = {} if self.connection.token else {"RAY_AUTH_MODE": "disabled"}
        environment: dict[str, Any] = {"env_vars": {**stop, **mode, **(variables or {})}}
        if folder:
            environment["working_dir"] = folder
        self._client.submit_job(
            entrypoint=command,
            submission_id=id_,
            runtime_env=environment,
            metadata=dict(metadata),
            entrypoint_num_cpus=0,
        )

    def info(self, id_: str) -> Submission:
        """The current state of a submission."""
        with _user_errors(self.connection):
            return of_details(self._client.get_job_info(id_))

    def log(self, id_: str) -> str:
        """The output of a job so far."""
        with _user_errors(self.connection):
            text: str = self._client.get_job_logs(id_)
        return text

    def follow(self, id_: str, write: Callable[[str], None]) -> Submission:
        """Pass on the output of a job, from its beginning, until the job has ended.

        If the connection breaks, it is opened again; behind a proxy that allows no stream, the log is polled.
        """
        written = 0
        while True:
            with _user_errors(self.connection):
                written, complete = asyncio.run(self._tail(id_, write, written))
            submission = self.info(id_)
            if not complete and (rest := self.log(id_)[written:]):
                write(rest)
                written += len(rest)
            if submission.ended:
                return submission
            time.sleep(POLL_S)

    async def _tail(self, id_: str, write: Callable[[str], None], written: int) -> tuple[int, bool]:
        """Stream the log, skipping the ``written`` characters that were passed on before.

        Returns:
            How many characters are passed on now, and whether the stream ended without an error.
        """
        received = 0
        with suppress(*_stream_errors()):
            async for text in self._client.tail_job_logs(id_):
                received += len(text)
                if received > written:
                    write(text[-(received - written) :])
                    written = received
            return written, True
        return written, False

    def wait_for_startup(self, id_: str, timeout_s: float) -> tuple[Submission, StartupReport | None]:
        """Wait until a submission runs; its report is None if it ended before, or has not started in that time."""
        until = time.monotonic() + timeout_s
        while True:
            submission = self.info(id_)
            report = find_report(self.log(id_)) if submission.state != "PENDING" else None
            if report or submission.ended or time.monotonic() > until:
                return submission, report
            time.sleep(POLL_S)

    def stop(self, id_: str) -> Submission:
        """Ask a job to stop and wait until it has ended; finished trials are kept."""
        with _user_errors(self.connection):
            self._client.stop_job(id_)
        until = time.monotonic() + STOP_WAIT_S + 30
        while not (submission := self.info(id_)).ended and time.monotonic() < until:
            time.sleep(POLL_S)
        return submission

    def delete(self, id_: str) -> None:
        """Remove an ended job from Ray's list."""
        with _user_errors(self.connection):
            self._client.delete_job(id_)


def whereabouts(address: str, name: str) -> StartupReport:
    """On which host a submission runs, and in which folder its results are.

    Raises:
        UserError: there is no such submission, or it never started.
    """
    jobs = JobsClient(address)
    submission, report = jobs.wait_for_startup(jobs.find(name).id, timeout_s=60)
    if report is None:
        raise UserError(
            f"{submission.id} ({submission.state.lower()}) has not reported where its results are; 'vlmprof logs"
            f" {submission.id}' shows its output"
        )
    return report


def _client(connection: Connection) -> Any:
    os.environ["RAY_AUTH_MODE"] = "token" if connection.token else "disabled"
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray prefers these to the address that it is given.
    removed = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        with _user_errors(connection):
            return JobSubmissionClient(connection.url, headers=dict(connection.headers))
    finally:
        os.environ.update(removed)


def _stream_errors() -> tuple[type[Exception], ...]:
    import aiohttp

    return aiohttp.ClientError, OSError, RuntimeError


@contextmanager
def _user_errors(connection: Connection) -> Iterator[None]:
    """Turn errors of the connection, and refusals by the cluster, into a ``UserError`` of one line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise UserError(f"the cluster at {connection.url} no longer accepts this token") from None
    except (requests.RequestException, ConnectionError) as error:
        raise UserError(f"the cluster at {connection.url} no longer answers ({type(error).__name__})") from None
    except RuntimeError as error:
        if "Request failed" not in str(error):
            raise
        last_line = [line for line in str(error).strip().splitlines() if line.strip()][-1]
        raise UserError(f"the cluster at {connection.url} refused: {last_line.strip()}") from None


def _require_public(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(f"expected NAME=VALUE for a variable, got the name '{name}'")
    if name == STORAGE:
        raise UserError(
            f"only the cluster's owner sets {STORAGE}, where Ray is started; name a 'storage' in the job instead"
        )
    if what := why_secret_variable(name, value):
        raise UserError(
            f"--env {name} looks like {what}, and is not sent: everyone who can open Ray's dashboard can read a job's"
            " environment. Set it on the cluster's machines, where Ray is started"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the user id has no name, as in some containers
        return ""
