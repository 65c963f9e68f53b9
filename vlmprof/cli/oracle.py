"""``vlmprof oracle``: what choosing a configuration for each sample could gain, and exports for controllers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmprof.cli.output import out
from vlmprof.cli.results import Figure, Results
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.analyze.adaptive.oracle import Oracle

app = typer.Typer()


@app.command("oracle")
def show_oracle(
    folder: Results,
    budget: Annotated[
        str, typer.Option(help="Shares of the full configuration's cost, comma-separated.")
    ] = "0.35,0.5,0.7,0.85,1.0",
    by: Annotated[str, typer.Option(help="Part of a group's name, where there are several.")] = "",
    cost: Annotated[
        str, typer.Option(help="A column of trials as the cost; by default the latency of each sample.")
    ] = "",
    penalty: Annotated[float, typer.Option(help="Lambda: reward = score - lambda x (cost - budget).")] = 10.0,
    violations: Annotated[float, typer.Option(help="Share of samples that may exceed the budget all the same.")] = 0.05,
    router: Annotated[
        bool, typer.Option("--router", help="Say what question type and size of picture predict.")
    ] = False,
    figure: Figure = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write a row for each sample of each trial to this .parquet.", show_default=False),
    ] = None,
    export_json: Annotated[
        Path | None, typer.Option(help="Write them as JSON into this folder, a file a trial.", show_default=False)
    ] = None,
    export_benchmark: Annotated[
        Path | None, typer.Option(help="Write the grid as a benchmark for search methods here.", show_default=False)
    ] = None,
) -> None:
    """Say what choosing for each sample could gain under a budget, how much may be luck, and what simple rules gain."""
    if export is not None and export.suffix.lower() != ".parquet":
        raise UserError(
            f"--export {export}: expected a file that ends in .parquet; --export-json writes JSON to a folder"
        )
    from vlmprof.analyze.adaptive.oracle import oracle
    from vlmprof.report.oracle_table import oracle_report

    found = oracle(folder, _budgets(budget), by=by, cost=cost, penalty=penalty, violations=violations)
    for part in oracle_report(found):
        out.print(part)
    _draw(found, figure)
    _export(folder, by, (export, export_json, export_benchmark))
    if router:
        _show_routing(folder, by, cost)


def _draw(found: Oracle, figure: Path | None) -> None:
    if figure is not None:
        from vlmprof.plots._rules import draw_rules

        draw_rules(found, figure)
        out.print(f"\nWritten: {figure}", highlight=False, soft_wrap=True)


def _show_routing(folder: str, by: str, cost: str) -> None:
    from vlmprof.analyze.adaptive.router import routing
    from vlmprof.report.oracle_table import routing_report

    for part in routing_report(routing(folder, by=by, cost=cost)):
        out.print(part)


def _export(folder: str, by: str, to: tuple[Path | None, Path | None, Path | None]) -> None:
    """Write what was asked for: rows, JSON, a benchmark."""
    from vlmprof.analyze.adaptive.sample_export import write_json, write_rows
    from vlmprof.analyze.adaptive.tabular_benchmark import write_benchmark

    rows, json, benchmark = to
    if rows is not None:
        _say(f"Written: {rows}", write_rows(folder, rows))
    if json is not None:
        paths, said = write_json(folder, json)
        _say(f"Written: {len(paths)} files in {json}", said)
    if benchmark is not None:
        paths, said = write_benchmark(folder, benchmark, by)
        _say(f"Written: {len(paths)} files in {benchmark}", said)


def _say(written: str, caveats: tuple[str, ...]) -> None:
    out.print(f"\n{written}", highlight=False, soft_wrap=True)
    for sentence in caveats:
        out.print(f"beware: {sentence}", style="yellow", soft_wrap=True)


def _budgets(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--budget: expected numbers such as 0.5,0.7, got '{text}'") from None
