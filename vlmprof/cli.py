"""The command line. Imports neither ray nor torch until a command needs them: ``vlmprof --help`` answers at once.

Exit codes: 0 all is well; 1 a bug; 2 the user can fix it; those of a run are told in ``run_cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vlmprof import __version__, batch_cli, data, jobs_cli, registry, run_cli, watch_cli
from vlmprof.errors import UserError
from vlmprof.storage import mounted
from vlmprof.terminal import err, out, plural

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data.app, name="data")
app.add_typer(batch_cli.app, name="batch")
app.add_typer(jobs_cli.app)  # without a name: its commands are commands of ours
app.add_typer(watch_cli.dashboard, name="dashboard")
app.command()(run_cli.run)
app.command()(run_cli.resume)
app.command()(watch_cli.status)
app.command()(watch_cli.watch)

JobFile = Annotated[Path, typer.Argument(help="A job, such as jobs/quickstart.yaml.", show_default=False)]
Results = Annotated[
    str,
    typer.Argument(help="Results: a folder such as results/quickstart, or a URI such as s3://...", show_default=False),
]


def main() -> None:
    """Entry point: an error that the user can fix is one line, any other keeps its trace."""
    try:
        app()
    except UserError as error:
        err.print(f"vlmprof: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"vlmprof {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def vlmprof(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Sweep the knobs of a vision-language model: accuracy, latency that can be trusted, Pareto fronts."""


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Job files.", show_default=False)]) -> None:
    """Prove job files right without a GPU, weights or a cluster; every fault is reported."""
    from vlmprof.trial.resolve import prepare

    faulty = []
    for file in files:
        try:
            job = prepare(file)
            out.print(f"{file}: ok, {plural(len(job.plans), 'trial')}", highlight=False, soft_wrap=True)
            for note in job.notes:
                out.print(f"  beware: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        except UserError as error:
            faulty.append(str(error))
    if faulty:
        raise UserError("\n".join(faulty))


@app.command()
def plan(file: JobFile) -> None:
    """Show the trials of a job: which are done, and how many vision tokens each will see."""
    from vlmprof.store.ledger import FINISHED, read_states
    from vlmprof.trial.resolve import predicted_vision_tokens, prepare, resolve

    job = prepare(file)
    states = read_states(job.spec.where)
    table = Table("trial", "model", "task", *job.spec.knobs, "vision tokens", "state", box=None, header_style="bold")
    for each in job.plans:
        state = states.get(each.id, "missing")
        labels = _labels(each, list(job.spec.knobs))
        tokens = f"{predicted_vision_tokens(resolve(each)):.0f}"
        table.add_row(each.id, each.model.label, each.task.name, *labels, tokens, state)
    out.print(table)
    done = sum(states.get(each.id) in FINISHED for each in job.plans)
    left = len(job.plans) - done
    out.print(f"\n{plural(len(job.plans), 'trial')}: {done} done, {left} to run; results in {job.spec.where}")


@app.command()
def pareto(
    folder: Results,
    objectives: Annotated[str, typer.Option(help="Columns, comma-separated; each knows its direction.")] = "",
    by: Annotated[str, typer.Option(help="Columns that must not be mixed in one front, comma-separated.")] = "",
    across: Annotated[bool, typer.Option("--across-devices", help="One front over GPUs of unlike kinds.")] = False,
) -> None:
    """Print the Pareto front of a sweep, and write it to pareto.parquet."""
    _show_front(folder, _names(objectives), _names(by), across=across)


@app.command()
def plot(
    folder: Results,
    to: Annotated[Path | None, typer.Option(help="Where the figures go; by default into the folder.")] = None,
) -> None:
    """Draw the front, and each knob against each objective."""
    from vlmprof.plots.plot import render

    if to is None and "://" in folder:
        raise UserError(f"{folder} cannot hold figures; name a folder with --to")
    for path in render(folder, to or mounted(folder) / "plots"):
        out.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def importance(
    folder: Results,
    by: Annotated[str, typer.Option(help="Part of a group's name, where there are several.")] = "",
) -> None:
    """Score each decoder block by the accuracy lost without it, and say how a job reads the table."""
    from vlmprof.analyze.importance import importance as scores_of
    from vlmprof.analyze.importance import write_importance

    found = scores_of(folder, by)
    table = Table("block", "accuracy lost", "samples", title=f"\n{found.of}", box=None, header_style="bold")
    for row in sorted(found.rows, key=lambda row: -row["score"]):
        table.add_row(str(row["block"]), f"{row['score']:+.4f}", str(row["samples"]))
    out.print(table)
    path, digest = write_importance(found, folder)
    where = path.removeprefix("results/")
    value = f'{{keep: {len(found.rows) - 1}, policy: importance, table: {where}, sha256: "{digest}"}}'
    out.print(f"\nTable: {path}\nIn a job, for any number to keep:\n  active_blocks: [{value}]", soft_wrap=True)


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help="knobs, models, tasks, metrics, strategies or plots")] = "") -> None:
    """List what there is of a kind."""
    from vlmprof.errors import UnknownNameError

    if kind and kind not in registry.KINDS:
        raise UnknownNameError("kind of leaf", kind, list(registry.KINDS))
    for name in [kind] if kind else registry.KINDS:
        out.print(f"{name}: {', '.join(registry.names(name))}", highlight=False, soft_wrap=True)
    if kind == "models":
        out.print(_family_table())


def _family_table() -> Table:
    """What each architecture can turn, found by building its modules without weights: some seconds."""
    from vlmprof.models._table import family_table

    table = Table("", "family", "vision unit", "knobs", "", box=None, header_style="bold", pad_edge=False)
    for row in family_table():
        note = "needs torchvision" if row.needs_torchvision else ""
        table.add_row(row.name, row.family, row.vision_unit or "not known", " ".join(row.knobs), note)
    return table


def _show_front(folder: str, objectives: list[str], by: list[str], *, across: bool = False) -> None:
    from vlmprof.report.front import front_report, read_front, write_front

    front = read_front(folder, objectives, by, across_devices=across)
    write_front(front, folder)
    for part in front_report(front, out.width):
        out.print(part)


def _labels(each: Any, knobs: Sequence[str]) -> list[str]:
    from vlmprof.knobs.knob import label

    point = dict(each.point)
    return [label(point[name]) for name in knobs]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main()
