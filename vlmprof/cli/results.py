"""``vlmprof pareto``, ``plot`` and ``importance``: read the tables of a results folder. Needs neither ray nor torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vlmprof.cli.output import out
from vlmprof.errors import UserError
from vlmprof.job.storage import mounted

app = typer.Typer()

AcrossModels = Annotated[bool, typer.Option("--across-models", help="One front over all models of the folder.")]

Results = Annotated[
    str,
    typer.Argument(help="Results: a folder such as results/quickstart, or a URI such as s3://...", show_default=False),
]


Figure = Annotated[Path | None, typer.Option(help="Draw it too: a .png, .svg or .pdf file.", show_default=False)]


@app.command("pareto")
def show_front(
    folder: Results,
    objectives: Annotated[str, typer.Option(help="Columns, comma-separated; each knows its direction.")] = "",
    by: Annotated[str, typer.Option(help="Columns that must not be mixed in one front, comma-separated.")] = "",
    across: Annotated[bool, typer.Option("--across-devices", help="One front over GPUs of unlike kinds.")] = False,
    across_models: AcrossModels = False,
    doubt: Annotated[bool, typer.Option(help="Say how sure the front is, from answers and timings.")] = True,
    epsilon: Annotated[
        str, typer.Option(help="What counts as no difference: accuracy=0.01,latency_ms_p50=2%.", show_default=False)
    ] = "",
) -> None:
    """Print the Pareto front of a sweep, and write it to pareto.parquet; with options to a file named after them."""
    across_names = {"across_devices": across, "across_models": across_models}
    chosen = {name: True for name, on in across_names.items() if on}
    _show_front(folder, (names_in(objectives), names_in(by)), chosen, doubt=doubt, epsilon=_shares(epsilon))


@app.command("plot")
def draw_plots(
    folder: Results,
    to: Annotated[Path | None, typer.Option(help="Where the figures go; by default into the folder.")] = None,
    across_models: AcrossModels = False,
    objectives: Annotated[
        str, typer.Option(help="Columns to show in place of accuracy and latency, comma-separated.")
    ] = "",
) -> None:
    """Draw the front, each knob against each objective, and the speed-up of each stage."""
    from vlmprof.plots.plot import render

    if to is None and "://" in folder:
        raise UserError(f"{folder} cannot hold figures; name a folder with --to")
    notes: list[str] = []
    place, names = to or mounted(folder) / "plots", names_in(objectives)
    for path in render(folder, place, note=notes.append, across_models=across_models, objectives=names):
        out.print(str(path), highlight=False, soft_wrap=True)
    for remark in notes:
        out.print(remark, style="yellow", highlight=False, markup=False, soft_wrap=True)


@app.command("importance")
def score_blocks(
    folder: Results,
    by: Annotated[str, typer.Option(help="Part of a group's name, where there are several.")] = "",
) -> None:
    """Score each decoder block by the accuracy lost without it, and say how a job reads the table."""
    from vlmprof.analyze.importance import importance, write_importance

    found = importance(folder, by)
    headers = ("block", "accuracy lost [95 %]", "place", "samples")
    table = Table(*headers, title=f"\n{found.of}", box=None, header_style="bold")
    for row in sorted(found.rows, key=lambda row: -row["score"]):
        lost = f"{row['score']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        table.add_row(str(row["block"]), lost, f"{row['rank_low']} to {row['rank_high']}", str(row["samples"]))
    out.print(table)
    for caveat in found.caveats:
        out.print(f"beware: {caveat}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    path, digest = write_importance(found, folder)
    where = path.removeprefix("results/")
    value = f'{{keep: {len(found.rows) - 1}, policy: importance, table: {where}, sha256: "{digest}"}}'
    out.print(f"\nTable: {path}\nIn a job, for any number to keep:\n  active_blocks: [{value}]", soft_wrap=True)


def _show_front(
    folder: str,
    columns: tuple[list[str], list[str]],
    across: dict[str, bool],
    *,
    doubt: bool,
    epsilon: dict[str, float],
) -> None:
    from vlmprof.report.pareto_table import front_report, read_front, write_front

    objectives, by = columns
    front = read_front(folder, objectives, by, **across, doubt=doubt, epsilon=epsilon)
    chosen = [*objectives, *(f"by-{name}" for name in by), *(name.replace("_", "-") for name in across)]
    for part in front_report(front, out.width):  # first: it can be seen also where it cannot be written
        out.print(part)
    path = write_front(front, folder, "-".join(["pareto", *chosen]) + ".parquet")
    if chosen:
        out.print(f"\nWritten: {path}", highlight=False, soft_wrap=True)


def _shares(text: str) -> dict[str, float]:
    """``accuracy=0.01,latency_ms_p50=2%`` -> column -> number."""
    found = {}
    for part in names_in(text):
        name, _, value = part.partition("=")
        number = value.strip().removesuffix("%")
        try:
            found[name.strip()] = float(number) / (100 if value.strip().endswith("%") else 1)
        except ValueError:
            raise UserError(f"--epsilon: expected <objective>=<number> or <number>%, got '{part}'") from None
    return found


def names_in(text: str) -> list[str]:
    """The names of an option that takes several, comma-separated."""
    return [name.strip() for name in text.split(",") if name.strip()]
