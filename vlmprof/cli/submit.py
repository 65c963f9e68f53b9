"""``vlmprof submit``, ``jobs``, ``logs``, ``stop`` and ``fetch``: sweeps on a Ray cluster, over its Jobs API."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vlmprof import __version__
from vlmprof.cli.output import INTERRUPTED, err, out
from vlmprof.errors import UserError
from vlmprof.escaping import visible

if TYPE_CHECKING:
    from vlmprof.submit.client import JobsClient
    from vlmprof.submit.fetch import FetchResult
    from vlmprof.submit.startup_report import StartupReport
    from vlmprof.submit.submission import Submission

app = typer.Typer()

DATA_LIMIT_MB = 100.0
STARTUP_TIMEOUT_S = 60
"""How long ``submit`` waits for a job to start before it reports that the job is still waiting."""
_ADDRESS_HELP = "URL of the cluster's Ray dashboard."
Address = Annotated[str, typer.Option(help=_ADDRESS_HELP, envvar="VLMPROF_ADDRESS")]
Id = Annotated[str, typer.Argument(metavar="ID", help="An id that 'vlmprof jobs' lists, or a job's name: its newest.")]
DASHBOARD = "http://127.0.0.1:8265"


@app.command("submit")
def submit_job(
    file: Annotated[Path, typer.Argument(help="A job, such as jobs/quickstart.yaml.", show_default=False)],
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its log until it ends.")] = False,
    with_data: Annotated[bool, typer.Option("--with-data", help="Send the local data of its tasks too.")] = False,
    data_limit_mb: Annotated[float, typer.Option(help="The most data that are sent.")] = DATA_LIMIT_MB,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the job's processes; never a secret.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Start a new attempt even if the job has succeeded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="However many trials: they are meant.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Let Ray and Tune speak in its log.")] = False,
) -> None:
    """Run a job on a Ray cluster. Submitting the same job again attaches to it, or continues it."""
    from vlmprof.submit.bundle import pack

    bundle = pack(file, with_data=with_data, limit_bytes=round(data_limit_mb * 1e6))
    jobs = _connect(address)
    variables = dict(_parse_variable(text) for text in env or [])
    options = [option for option, chosen in {"--yes": yes, "--verbose": verbose}.items() if chosen]
    data = ["--with-data", *([f"--data-limit-mb={data_limit_mb:g}"] if data_limit_mb != DATA_LIMIT_MB else [])]
    typed = [str(file), *(data if with_data else []), *(f"--env={text}" for text in env or []), *options]
    command = shlex.join(["vlmprof", "submit", *typed]) + _address_option(address)
    submission, outcome = jobs.submit(bundle, variables, again=again, options=options, command=command)
    if outcome == "done":
        _print(f"{submission.id} has succeeded already, {_ago(submission)}; --again runs what is missing of it")
        _print(f"Fetch:  vlmprof fetch {submission.id} DIR{_address_option(address)}")
        return
    with_files = f" with {len(bundle.files)} files of data" if bundle.files else ""
    _print(
        f"submitted {submission.id}{with_files}"
        if outcome == "new"
        else f"attached to {submission.id}: it is {submission.state.lower()} already"
    )
    _print_startup(jobs, submission, address)
    if follow:
        _follow(jobs, submission.id, address)


@app.command("jobs")
def list_jobs(address: Address = DASHBOARD) -> None:
    """List the sweeps that were submitted to a cluster, the newest first."""
    table = Table("job", "id", "state", "began", "took", "by", box=None, header_style="bold")
    for sweep in _connect(address).list_sweeps():
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sweep.began)) if sweep.began else ""
        took = "" if sweep.took_s is None else f"{sweep.took_s:.0f} s"
        code = f" ({sweep.code})" if sweep.code else ""
        table.add_row(sweep.name, sweep.id, f"{sweep.state.lower()}{code}", began, took, sweep.user)
    out.print(table if table.row_count else "no sweep was submitted to this cluster", highlight=False)


@app.command("logs")
def show_log(
    id_: Id,
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new output until the sweep ends.")] = False,
) -> None:
    """Show the output of a submitted sweep."""
    jobs = _connect(address)
    submission = jobs.find(id_)
    if follow:
        _follow(jobs, submission.id, address)
    else:
        _write(jobs.log(submission.id))


@app.command("stop")
def stop_job(id_: Id, address: Address = DASHBOARD) -> None:
    """Stop a submitted sweep. Finished trials are kept; submit the job again to run the rest."""
    jobs = _connect(address)
    submission = jobs.find(id_)
    if submission.ended:
        _print(f"{submission.id} has ended already: {submission.state.lower()}")
        return
    submission = jobs.stop(submission.id)
    state = submission.state.lower()
    if not submission.ended:
        raise UserError(f"{submission.id} was asked to stop and is still {state}; try again, or read its log")
    _print(f"{submission.id}: {state}; finished trials are kept. Submit the job again to run the rest")


@app.command("fetch")
def fetch_results(
    id_: Id,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The local folder for the results.", show_default=False)
    ],
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Fetch repeatedly until the sweep ends.")] = False,
) -> None:
    """Download the tables and the ledger of a submitted sweep, running or not; again downloads only new files."""
    from vlmprof.submit import fetch as fetching

    jobs = _connect(address)
    submission = jobs.find(id_)
    if follow:
        _print(
            f"fetching until {submission.id} ends; watch it in another terminal with 'vlmprof status {folder} --watch'."
            " Ctrl-C stops fetching and leaves the sweep running"
        )
        try:
            fetching.follow(jobs, submission, folder, lambda result: _print_fetched(result, folder))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    else:
        _print_fetched(fetching.fetch(jobs, submission, folder), folder)
    _print(f"Next:   vlmprof status {folder}   vlmprof pareto {folder}")


def _print_fetched(result: FetchResult, folder: Path) -> None:
    size = f"{result.bytes / 1e6:.1f} MB"
    _print(f"{result.files} files in {folder}, {result.new_files} of them new ({size}), from {result.source}")


def _connect(address: str) -> JobsClient:
    from vlmprof.submit.client import JobsClient

    jobs = JobsClient(address)
    for warning in jobs.connection.warnings:
        err.print(f"beware: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    return jobs


def _print_startup(jobs: JobsClient, submission: Submission, address: str) -> None:
    """Print where the job runs, and the next commands.

    Raises:
        UserError: it ended before it could report where it runs, with the reason.
    """
    submission, report = jobs.wait_for_startup(submission.id, STARTUP_TIMEOUT_S)
    if report is None and submission.ended:
        raise UserError(_startup_failure(submission, jobs.log(submission.id)))
    if report is None:
        _print(f"still waiting: {submission.state.lower()} for {STARTUP_TIMEOUT_S} s")
    else:
        _print_report(report)
    for command in ("logs -f", "stop", "fetch"):
        folder = " DIR" if command == "fetch" else ""
        _print(f"  vlmprof {command} {submission.id}{folder}{_address_option(address)}")


def _print_report(report: StartupReport) -> None:
    versions = f"vlmprof {report.vlmprof} and Python {report.python}"
    _print(f"runs on {report.host} with {versions}; results in {report.results}")
    if report.vlmprof != __version__:
        err.print(
            f"beware: the sweep runs with vlmprof {report.vlmprof}, this machine has {__version__}", style="yellow"
        )


def _startup_failure(submission: Submission, log: str) -> str:
    """Why a job ended before it started the sweep; with what to do where the cause is known."""
    if re.search(r"No module named '?vlmprof\b", log):
        return (
            "vlmprof is not installed in the Python that Ray uses on the cluster's head; install it on every machine of"
            " the cluster, in the environment that 'ray start' comes from: pip install -c constraints.txt . (in"
            " cluster.yaml under setup_commands, in Kubernetes in the image)"
        )
    if submission.code == 127:
        return "there is no 'python' on the PATH of the cluster's head; start Ray from an activated environment"
    lines = [line.strip() for line in (log or submission.message).splitlines() if line.strip()]
    last_line = lines[-1] if lines else "it printed nothing"
    return f"{submission.id} ended before it began ({submission.state.lower()}): {last_line}"


def _follow(jobs: JobsClient, id_: str, address: str) -> None:
    """Show a log to its end, and exit with the sweep's exit code."""
    try:
        submission = jobs.follow(id_, _write)
    except KeyboardInterrupt:
        stop = f"vlmprof stop {id_}{_address_option(address)}"
        err.print(f"\nDetached; {id_} keeps running. To stop it: {stop}", style="yellow", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    _print(f"{submission.id}: {submission.state.lower()}")
    if submission.exit_code:
        raise typer.Exit(submission.exit_code)


def _write(text: str) -> None:
    sys.stdout.write(visible(re.sub("\r\n?", "\n", text)))  # a log is text of another machine
    sys.stdout.flush()


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _address_option(address: str) -> str:
    """The option that repeats a non-default address in a suggested command."""
    return "" if address == DASHBOARD else f" --address {address}"


def _ago(submission: Submission) -> str:
    return f"{max(0, round((time.time() - submission.began) / 60))} min ago"


def _parse_variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or "=" not in text:
        raise UserError(f"expected --env NAME=VALUE, got '{name}'")
    return name, value
