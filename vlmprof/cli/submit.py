"""``vlmprof submit``, ``jobs``, ``logs``, ``stop`` and ``fetch``: sweeps on a Ray cluster, over its Jobs API."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vlmprof import __version__
from vlmprof.cli.output import INTERRUPTED, err, out
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.submit.client import JobsClient
    from vlmprof.submit.fetch import FetchResult
    from vlmprof.submit.startup_report import StartupReport
    from vlmprof.submit.submission import Submission

app = typer.Typer()

PATIENCE_S = 60
"""How long ``submit`` waits for a job to begin before it says that it waits."""
_WHERE = "URL of the cluster's Ray dashboard."
Address = Annotated[str, typer.Option(help=_WHERE, envvar="VLMPROF_ADDRESS")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As 'vlmprof jobs' lists it; a job's name is its newest.")]
DASHBOARD = "http://127.0.0.1:8265"


@app.command("submit")
def submit_job(
    file: Annotated[Path, typer.Argument(help="A job, such as jobs/quickstart.yaml.", show_default=False)],
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its log until it ends.")] = False,
    with_data: Annotated[bool, typer.Option("--with-data", help="Send the local data of its tasks too.")] = False,
    data_limit_mb: Annotated[float, typer.Option(help="The most that is sent.")] = 100.0,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for its processes; never a secret.")] = None,
    again: Annotated[bool, typer.Option("--again", help="A new attempt even though it succeeded.")] = False,
) -> None:
    """Run a job on a Ray cluster. The same job again attaches to it, or goes on where it was cut off."""
    from vlmprof.submit.bundle import pack

    bundle = pack(file, with_data=with_data, limit_bytes=round(data_limit_mb * 1e6))
    jobs = _reached(address)
    found, how = jobs.submit(bundle, dict(_pair(one) for one in env or []), again=again)
    if how == "done":
        _say(f"{found.id} has succeeded already, {_ago(found)}; --again runs what is missing of it")
        _say(f"Fetch:  vlmprof fetch {found.id} DIR{_told(address)}")
        return
    parts = f" with {len(bundle.files)} files of data" if bundle.files else ""
    _say(
        f"submitted {found.id}{parts}"
        if how == "new"
        else f"attached to {found.id}: it is {found.state.lower()} already"
    )
    _say_arrival(jobs, found, address)
    if follow:
        _follow(jobs, found.id, address)


@app.command("jobs")
def list_jobs(address: Address = DASHBOARD) -> None:
    """List the sweeps that were submitted to a cluster, the newest first."""
    table = Table("id", "state", "began", "took", "by", box=None, header_style="bold")
    for one in _reached(address).listed():
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.began)) if one.began else ""
        took = "" if one.took_s is None else f"{one.took_s:.0f} s"
        code = f" ({one.code})" if one.code else ""
        table.add_row(one.id, f"{one.state.lower()}{code}", began, took, one.user)
    out.print(table if table.row_count else "no sweep was submitted here", highlight=False)


@app.command("logs")
def show_log(
    id_: Id,
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Show what a submitted sweep has printed."""
    reached = _reached(address)
    found = reached.find(id_)
    if follow:
        _follow(reached, found.id, address)
    else:
        _write(reached.log(found.id))


@app.command("stop")
def stop_job(id_: Id, address: Address = DASHBOARD) -> None:
    """Stop a submitted sweep; what it finished is kept, and submitting it again goes on."""
    reached = _reached(address)
    found = reached.find(id_)
    if found.ended:
        _say(f"{found.id} has ended already: {found.state.lower()}")
        return
    found = reached.stop(found.id)
    if not found.ended:
        raise UserError(f"{found.id} was asked to stop and is still {found.state.lower()}; ask again, or see its log")
    _say(f"{found.id}: {found.state.lower()}; what was finished is kept. Submit the job again to go on")


@app.command("fetch")
def fetch_results(
    id_: Id,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the results go.", show_default=False)],
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Again and again, until the sweep ends.")] = False,
) -> None:
    """Bring tables and ledger of a submitted sweep here, running or not; again, and only what is new comes."""
    from vlmprof.submit import fetch as fetching

    reached = _reached(address)
    found = reached.find(id_)
    if follow:
        _say(f"until {found.id} ends, for 'vlmprof status {folder} --watch' beside it; Ctrl-C leaves the sweep running")
        try:
            fetching.follow(reached, found, folder, lambda got: _say_fetched(got, folder))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    else:
        _say_fetched(fetching.fetch(reached, found, folder), folder)
    _say(f"Next:   vlmprof status {folder}   vlmprof pareto {folder}")


def _say_fetched(got: FetchResult, folder: Path) -> None:
    _say(f"{got.files} files in {folder}, {got.came} of them new ({got.bytes / 1e6:.1f} MB), from {got.place}")


def _reached(address: str) -> JobsClient:
    from vlmprof.submit.client import JobsClient

    reached = JobsClient(address)
    for warning in reached.connection.warnings:
        err.print(f"beware: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    return reached


def _say_arrival(jobs: JobsClient, found: Submission, address: str) -> None:
    """Where it runs, and what to type next.

    Raises:
        UserError: it ended before it could say where, with the reason.
    """
    found, where = jobs.wait_for_startup(found.id, PATIENCE_S)
    if where is None and found.ended:
        raise UserError(_why_not(found, jobs.log(found.id)))
    if where is None:
        _say(f"it waits: {found.state.lower()} for {PATIENCE_S} s by now")
    else:
        _say_place(where)
    for what in ("logs -f", "stop", "fetch"):
        _say(f"  vlmprof {what} {found.id}{' DIR' if what == 'fetch' else ''}{_told(address)}")


def _say_place(where: StartupReport) -> None:
    _say(f"runs on {where.host} with vlmprof {where.vlmprof} and Python {where.python}; results in {where.results}")
    if where.vlmprof != __version__:
        err.print(f"beware: here is vlmprof {__version__}, and rows come from {where.vlmprof}", style="yellow")


def _why_not(found: Submission, log: str) -> str:
    """Why a job never arrived, in words of ours where the cause is known."""
    if re.search(r"No module named '?vlmprof\b", log):
        return (
            "vlmprof is not installed in the Python that Ray runs on the cluster's head; install it on every machine of"
            " the cluster, in the environment that 'ray start' comes from: pip install -c constraints.txt . (in"
            " cluster.yaml under setup_commands, in Kubernetes in the image)"
        )
    if found.code == 127:
        return "there is no 'python' on the PATH of the cluster's head; start Ray from an activated environment"
    lines = [line.strip() for line in (log or found.said).splitlines() if line.strip()]
    return f"{found.id} ended before it began ({found.state.lower()}): {lines[-1] if lines else 'it said nothing'}"


def _follow(jobs: JobsClient, id_: str, address: str) -> None:
    """Show a log to its end, and end as the sweep did."""
    try:
        found = jobs.follow(id_, _write)
    except KeyboardInterrupt:
        err.print(
            f"\n{id_} goes on without you; vlmprof stop {id_}{_told(address)} ends it", style="yellow", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    _say(f"{found.id}: {found.state.lower()}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _told(address: str) -> str:
    return "" if address == DASHBOARD else f" --address {address}"


def _ago(found: Submission) -> str:
    return f"{max(0, round((time.time() - found.began) / 60))} min ago"


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or "=" not in text:
        raise UserError(f"expected --env NAME=VALUE, got '{name}'")
    return name, value
