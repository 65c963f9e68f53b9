"""The job file as it was submitted, kept in the results folder, for ``vlmprof resume``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vlmprof.errors import StoreError
from vlmprof.store import ledger
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder

JOB = "job.yaml"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedJob:
    """A job as it is stored in its results folder, with the folder that its relative paths are resolved against."""

    text: str
    """YAML text: the author's file, or the YAML that was written for a job given as a mapping."""
    cwd: str
    """Working folder in which it was started; relative paths in the job are resolved against it. Empty if unknown."""

    @staticmethod
    def of(text: str) -> SubmittedJob:
        """A job with this text that is started now, in the current working folder."""
        return SubmittedJob(text=text, cwd=str(Path.cwd()))


def write_job(results: ResultsFolder, text: str) -> None:
    """Write the job to its results folder, completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    results.write(JOB, text.encode())


def read_job(where: Where) -> SubmittedJob:
    """The job of the latest sweep that was started in a results folder.

    Raises:
        StoreError: the folder holds no sweep, or a sweep that was written without its job.
    """
    results = results_folder(where)
    ledger.require(results)
    content = results.read(JOB)
    if content is None:
        raise StoreError(f"{results} holds no {JOB}: it was written by an earlier vlmprof; use 'vlmprof run JOB.yaml'")
    runs = [entry for entry in ledger.read(results) if entry["event"] == "sweep"]
    return SubmittedJob(text=content.decode(), cwd=str(runs[-1].get("cwd", "")) if runs else "")


@contextmanager
def working_folder(submitted: SubmittedJob) -> Iterator[None]:
    """Change to the folder that a job's relative paths are resolved against, if that folder still exists."""
    exists = bool(submitted.cwd) and Path(submitted.cwd).is_dir()
    with chdir(submitted.cwd) if exists else nullcontext():
        yield
