"""``vlmprof status``, ``watch`` and ``dashboard``: the progress of a sweep, for people and for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vlmprof.cli.output import INTERRUPTED, err, out
from vlmprof.cli.submit import DASHBOARD, Address
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.analyze.watch_state import SweepView, Watcher

app = typer.Typer()
dashboard = typer.Typer(no_args_is_help=True, help="A Grafana dashboard for the metrics of sweeps on Ray.")
LOOK_S = 1.0
PLAIN_EVERY_S = 10.0
"""Between two plain lines while nothing ends, where nothing moves on a screen."""

Sweep = Annotated[str, typer.Argument(metavar="DIR|ID", help="A results folder or its URI, or a submitted job.")]


@app.command("status")
def show_status(
    sweep: Sweep,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking until the sweep ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: an object; with --watch one a line.")] = False,
    address: Address = DASHBOARD,
) -> None:
    """Say where a sweep stands, from its folder alone: no cluster is asked."""
    from vlmprof.analyze.watch_state import Watcher, standing
    from vlmprof.report.status_screen import left_words

    folder = _awaited(sweep, address) if watch else folder_of(sweep, address)
    if as_json:
        _say_json(Watcher(folder), again=watch)
    elif watch:
        _watch(Watcher(folder))
    else:
        table = Table(box=None, show_header=False)
        view = standing(folder)
        left = [("estimate", left_words(view.left))] if view.left else []
        for what, how in [*view.status.lines(), *left]:
            table.add_row(Text(what), Text(how))  # as they are: a bracket in a reason is no style of rich's
        out.print(table)


@app.command("watch")
def watch_sweep(
    sweep: Sweep,
    web: Annotated[bool, typer.Option("--web", help="A page for browsers on this machine, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Of the page; 0 takes any that is free.", min=0, max=65535)] = 0,
    address: Address = DASHBOARD,
) -> None:
    """Watch a sweep as it goes: on this terminal, or with --web in a browser."""
    from vlmprof.analyze.watch_state import Watcher

    folder = _awaited(sweep, address)
    if not web:
        _watch(Watcher(folder))
        return
    from vlmprof.report.server import HOST, make_server

    with make_server(folder, port) as server:
        out.print(f"http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


@dashboard.callback()
def _dashboard() -> None:
    """Keeps ``export`` a command of its own, though it is the only one."""


@dashboard.command("export")
def export_dashboard(
    to: Annotated[Path | None, typer.Option(help="Where to write it; by default to the terminal.")] = None,
) -> None:
    """Write the dashboard as JSON, for Grafana's 'Import'."""
    text = files("vlmprof.monitor").joinpath("grafana_dashboard.json").read_text(encoding="utf-8")
    if to is None:
        print(text, end="")
    else:
        to.write_text(text, encoding="utf-8")
        out.print(f"{to}: in Grafana, 'New', 'Import'", highlight=False, soft_wrap=True)


def _awaited(sweep: str, address: str) -> str | Path:
    """The results folder, once a sweep has started in it; waits for one that does not exist yet."""
    from vlmprof.store import ledger
    from vlmprof.store.misplaced import why_no_folder

    named = "/" in sweep and "://" not in sweep
    folder = Path(sweep) if named else folder_of(sweep, address)
    if ledger.exists(folder):
        return folder
    if isinstance(folder, Path) and (problem := why_no_folder(str(folder))):
        raise UserError(f"{folder} can hold no sweep: {problem}")
    err.print(
        f"waiting for a sweep to start in {folder} (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True
    )
    try:
        while not ledger.exists(folder):
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    return folder


def folder_of(sweep: str, address: str) -> str | Path:
    """The results folder of an argument, or its URI; of a submitted job, if this machine sees it.

    Raises:
        UserError: there is no such folder and no such job, or its folder is on another machine.
    """
    if "://" in sweep:
        return sweep
    folder = Path(sweep)
    if folder.is_dir():
        return folder
    if "/" in sweep:
        raise UserError(f"there is no folder '{sweep}'; name a results folder, such as results/quickstart")
    from vlmprof.submit.client import whereabouts

    try:
        where = whereabouts(address, sweep)
    except UserError as error:
        raise UserError(f"there is no folder '{sweep}' here, and as a submitted job: {error}") from None
    if "://" in where.results:
        return where.results
    if not where.results or not Path(where.results).is_dir():
        there = where.results or "a place it has not said"
        raise UserError(
            f"the results of {sweep} lie in {there} on {where.host}, which this machine does not see;"
            f" 'vlmprof logs {sweep} -f' follows it, 'vlmprof fetch {sweep} DIR --follow' brings it here as it grows"
        )
    return Path(where.results)


def _watch(watcher: Watcher) -> None:
    try:
        (_watch_live if out.is_terminal else _watch_lines)(watcher)
    except KeyboardInterrupt:
        return


def _views(watcher: Watcher) -> Iterator[SweepView]:
    """A view at intervals until the sweep is over; reading takes at most a small share of the time."""
    while True:
        began = time.monotonic()
        view = watcher.look()
        yield view
        if _over(view):
            return
        time.sleep(max(LOOK_S, 4 * (time.monotonic() - began)))


def _over(view: SweepView) -> bool:
    """Whether no further change will come. A sweep without a heartbeat is not over: it may be resumed."""
    return view.status.sign == "ended" or (view.status.sign == "none" and not view.status.starting)


def _watch_live(watcher: Watcher) -> None:
    from vlmprof.report.status_screen import status_screen

    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        for view in _views(watcher):
            live.update(status_screen(view, out.width), refresh=True)


def _watch_lines(watcher: Watcher) -> None:
    from vlmprof.report.status_screen import status_line

    said, spoke = None, 0.0
    for view in _views(watcher):
        state = view.status.counts, view.status.sign
        if state != said or time.monotonic() - spoke > PLAIN_EVERY_S or _over(view):
            out.print(status_line(view), highlight=False, markup=False, soft_wrap=True)
            said, spoke = state, time.monotonic()


def _say_json(watcher: Watcher, *, again: bool) -> None:
    for view in _views(watcher):
        print(json.dumps(view.to_json(), allow_nan=False), flush=True)
        if not again:
            return
