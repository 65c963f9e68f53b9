"""Sweeps as jobs of a Ray cluster, over its Jobs API: HTTP to the dashboard's port, and nothing else.

A submission is known by the name of its job and a digest of what it holds. The same job again is attached to while it
runs, said to be done when it is, and otherwise is a new attempt, ``-r2`` and so on: the ledger keeps what was finished.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, final

from vlmprof import __version__
from vlmprof.errors import UserError, suggestion
from vlmprof.job.storage import STORAGE, is_anchored
from vlmprof.submit.bundle import JOB, JobBundle
from vlmprof.submit.connection import Connection, connect
from vlmprof.submit.secret_scan import why_secret_variable
from vlmprof.submit.startup_report import StartupReport, find_report
from vlmprof.submit.submission import Submission, of_details

STOP_WAIT_S = 60
"""From being asked to stop to being killed: time to finish a line and say how to go on."""
LOOK_EVERY_S = 0.3
KIND, SWEEP, FETCH = "vlmprof", "sweep", "fetch"
"""The key in Ray's metadata of a job, and its values."""
ROOT = f'export {STORAGE}="${{{STORAGE}:-$HOME/vlmprof/results}}"; '
"""Where a relative ``storage`` goes: the folder that a job is unpacked in is deleted after it."""
Ended = Literal["new", "attached", "done"]


@final
class JobsClient:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Reach the cluster.

        Raises:
            UserError: nobody answers there, or not to this token.
        """
        self.connection = connect(address)
        self._client = _client(self.connection)

    def listed(self) -> list[Submission]:
        """All sweeps that were submitted here, the newest first."""
        with _answered(self.connection):
            found: list[Any] = self._client.list_jobs()
        sweeps = [of_details(one) for one in found if (one.metadata or {}).get(KIND) == SWEEP and one.submission_id]
        return sorted(sweeps, key=lambda one: one.began, reverse=True)

    def find(self, said: str) -> Submission:
        """A submission by its id, by its id without the attempt, or by the name of its job: then the newest.

        Raises:
            UserError: there is none.
        """
        known = self.listed()
        for names in ([one.id for one in known], [one.base for one in known], [one.name for one in known]):
            found = [one for one, name in zip(known, names, strict=True) if name == said]
            if found:
                return max(found, key=lambda one: (one.began, one.attempt))
        raise UserError(f"no job '{said}' on {self.connection.url}{suggestion(said, [one.id for one in known])}")

    def submit(self, bundle: JobBundle, variables: Mapping[str, str], *, again: bool) -> tuple[Submission, Ended]:
        """Send a job, unless it is there already.

        Args:
            bundle: The job.
            variables: For the environment of its processes.
            again: A new attempt also of a job that succeeded.

        Raises:
            UserError: a variable looks like a secret.
        """
        for name, value in variables.items():
            _require_open(name, value)
        attempts = [one for one in self.listed() if one.base == bundle.id]
        last = max(attempts, key=lambda one: one.attempt, default=None)
        if last is not None and not last.ended:
            return last, "attached"
        if last is not None and last.state == "SUCCEEDED" and not again:
            return last, "done"
        id_ = f"{bundle.id}-r{last.attempt + 1}" if last else bundle.id
        sent = self._send(id_, bundle, variables)
        return self.info(id_), "new" if sent else "attached"

    def _send(self, id_: str, bundle: JobBundle, variables: Mapping[str, str]) -> bool:
        """Whether it was this call that submitted it, and not another at the same time."""
        place = "" if is_anchored(bundle.storage) else ROOT
        report = f"{place}python -m vlmprof.submit.startup_report {JOB}"
        command = f"{report} && exec python -m vlmprof.cli run {JOB} --address auto"
        about = {KIND: SWEEP, "name": bundle.name, "client": __version__, "user": _user()}
        with tempfile.TemporaryDirectory(prefix="vlmprof-bundle-") as folder, _answered(self.connection):
            bundle.write(Path(folder))
            try:
                self.run(id_, command, about, folder, variables)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def run(
        self,
        id_: str,
        command: str,
        about: Mapping[str, str],
        folder: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """A job of any kind, on the head, where it waits for no resource; SIGINT stops it."""
        stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        mode = {} if self.connection.token else {"RAY_AUTH_MODE": "disabled"}
        environment: dict[str, Any] = {"env_vars": {**stopping, **mode, **(variables or {})}}
        if folder:
            environment["working_dir"] = folder
        self._client.submit_job(
            entrypoint=command, submission_id=id_, runtime_env=environment, metadata=dict(about), entrypoint_num_cpus=0
        )

    def info(self, id_: str) -> Submission:
        """How a submission stands."""
        with _answered(self.connection):
            return of_details(self._client.get_job_info(id_))

    def log(self, id_: str) -> str:
        """What a job has printed so far."""
        with _answered(self.connection):
            text: str = self._client.get_job_logs(id_)
        return text

    def follow(self, id_: str, write: Callable[[str], None]) -> Submission:
        """Hand on what a job prints, from its beginning, until it has ended.

        A connection that breaks is made anew; where none holds, behind a proxy, the log is asked for now and then.
        """
        told = 0
        while True:
            with _answered(self.connection):
                told, whole = asyncio.run(self._tail(id_, write, told))
            found = self.info(id_)
            if not whole and (rest := self.log(id_)[told:]):
                write(rest)
                told += len(rest)
            if found.ended:
                return found
            time.sleep(LOOK_EVERY_S)

    async def _tail(self, id_: str, write: Callable[[str], None], told: int) -> tuple[int, bool]:
        """Characters of the log that are told when the stream ends, the first ``told`` before; whether it broke not."""
        seen = 0
        with suppress(*_broken()):
            async for text in self._client.tail_job_logs(id_):
                seen += len(text)
                if seen > told:
                    write(text[-(seen - told) :])
                    told = seen
            return told, True
        return told, False

    def wait_for_startup(self, id_: str, patience_s: float) -> tuple[Submission, StartupReport | None]:
        """A submission once it runs, and where; None when it ended before, or is not there yet after so long."""
        until = time.monotonic() + patience_s
        while True:
            found = self.info(id_)
            where = find_report(self.log(id_)) if found.state != "PENDING" else None
            if where or found.ended or time.monotonic() > until:
                return found, where
            time.sleep(LOOK_EVERY_S)

    def stop(self, id_: str) -> Submission:
        """Ask a job to stop and wait until it has; what is finished is kept."""
        with _answered(self.connection):
            self._client.stop_job(id_)
        until = time.monotonic() + STOP_WAIT_S + 30
        while not (found := self.info(id_)).ended and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
        return found

    def forget(self, id_: str) -> None:
        """Take an ended job off the list."""
        with _answered(self.connection):
            self._client.delete_job(id_)


def whereabouts(address: str, said: str) -> StartupReport:
    """Where a submission runs and its results lie: a host, and a folder on it.

    Raises:
        UserError: there is no such submission, or it never began.
    """
    jobs = JobsClient(address)
    found, where = jobs.wait_for_startup(jobs.find(said).id, patience_s=60)
    if where is None:
        raise UserError(
            f"{found.id} ({found.state.lower()}) has not said where its results lie; 'vlmprof logs"
            f" {found.id}' shows what it said"
        )
    return where


def _client(connection: Connection) -> Any:
    os.environ["RAY_AUTH_MODE"] = "token" if connection.token else "disabled"
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray prefers these to an address that was said.
    aside = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        with _answered(connection):
            return JobSubmissionClient(connection.url, headers=dict(connection.headers))
    finally:
        os.environ.update(aside)


def _broken() -> tuple[type[Exception], ...]:
    import aiohttp

    return aiohttp.ClientError, OSError, RuntimeError


@contextmanager
def _answered(connection: Connection) -> Iterator[None]:
    """What the cluster refuses, or that it is gone, in a line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise UserError(f"the cluster at {connection.url} does not take this token any more") from None
    except (requests.RequestException, ConnectionError) as error:
        raise UserError(f"the cluster at {connection.url} does not answer any more ({type(error).__name__})") from None
    except RuntimeError as error:
        if "Request failed" not in str(error):
            raise
        last = [line for line in str(error).strip().splitlines() if line.strip()][-1]
        raise UserError(f"the cluster at {connection.url} refused: {last.strip()}") from None


def _require_open(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(f"expected NAME=VALUE for a variable, got the name '{name}'")
    if name == STORAGE:
        raise UserError(f"{STORAGE} is the cluster owner's to set, where Ray is started; name a 'storage' in the job")
    if what := why_secret_variable(name, value):
        raise UserError(
            f"--env {name} looks like {what}, and is not sent: Ray shows a job's environment to all who see its"
            " dashboard. Set it on the cluster's machines, where Ray is started"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user: a container under a bare number
        return ""
