"""``vlmprof best`` and ``budgets``: which configuration to take. Needs neither ray nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from vlmprof.cli.output import out
from vlmprof.cli.results import AcrossModels, Figure, Results, names_in
from vlmprof.errors import UserError

app = typer.Typer()


@app.command("best")
def show_best(
    folder: Results,
    where: Annotated[
        str, typer.Option(help='What it must meet: "latency_ms_inputs_p95 < 200 ms and peak_bytes < 24 GB".')
    ] = "",
    maximise: Annotated[str, typer.Option(help="Column of which the highest is best.", show_default="accuracy")] = "",
    minimise: Annotated[str, typer.Option(help="Column of which the lowest is best.", show_default=False)] = "",
    sure: Annotated[float, typer.Option(help="In what share of draws the safe answer meets the condition.")] = 0.95,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Choose on one half of the pictures, report on the other.")
    ] = False,
    by: Annotated[str, typer.Option(help="Columns that must not be mixed in one group, comma-separated.")] = "",
    across_models: AcrossModels = False,
    figure: Figure = None,
) -> None:
    """Say which configuration is best under a condition, how sure that is, and what certainty costs."""
    from vlmprof.analyze.choosing.best import Wanted, best
    from vlmprof.report.best_table import best_report

    objective, better = _aim(maximise, minimise)
    wanted = Wanted(
        where=where,
        objective=objective,
        better=better,
        sure=sure,
        confirm=confirm,
        by=tuple(names_in(by)),
        across_models=across_models,
    )
    found = best(folder, wanted)
    for part in best_report(found):
        out.print(part)
    if figure is not None:
        from vlmprof.plots._choice import draw_choice

        draw_choice(found, figure)
        _written([str(figure)])


def _aim(maximise: str, minimise: str) -> tuple[str, str]:
    if maximise and minimise:
        raise UserError("--maximise and --minimise: expected one of the two; use --where to bound the other column")
    if minimise:
        return minimise, "lower"
    return (maximise, "higher") if maximise else ("accuracy", "")


@app.command("budgets")
def show_budgets(
    folder: Results,
    objective: Annotated[
        str, typer.Option(help="What is bounded: a column of which less is better.", show_default="that of the stage")
    ] = "",
    stage: Annotated[str, typer.Option(help="prefill: the prefill alone; whole: the whole request.")] = "whole",
    low: Annotated[float | None, typer.Option("--from", help="The first budget.", show_default="least")] = None,
    high: Annotated[float | None, typer.Option("--to", help="The last budget.", show_default="largest")] = None,
    step: Annotated[float | None, typer.Option(help="From one budget to the next.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(help="How many budgets, where there is no --step.")] = 10,
    tolerance: Annotated[str, typer.Option(help="How far above the budget a request may be.")] = "5%",
    by: Annotated[str, typer.Option(help="Columns that must not be mixed in one group, comma-separated.")] = "",
    across_models: AcrossModels = False,
    figure: Figure = None,
) -> None:
    """Print the best configuration for each budget, and write the table to budgets.parquet and budgets.json."""
    from vlmprof.analyze.choosing.budgets import BudgetsWanted, budgets, write_budgets
    from vlmprof.report.budgets_table import budgets_report

    wanted = BudgetsWanted(
        objective=objective,
        stage=stage,
        low=low,
        high=high,
        step=step,
        steps=steps,
        tolerance=_share(tolerance),
        by=tuple(names_in(by)),
        across_models=across_models,
    )
    found = budgets(folder, wanted)
    for part in budgets_report(found):
        out.print(part)
    named = [*filter(None, [objective, "" if stage == "whole" else stage]), *wanted.by]
    named += ["across-models"] if across_models else []
    _written(write_budgets(found, folder, "-".join(["budgets", *named])))
    if figure is not None:
        from vlmprof.plots._budgets import draw_budgets

        draw_budgets(found, figure)
        _written([str(figure)])


def _written(places: Sequence[str]) -> None:
    for place in places:
        out.print(f"Written: {place}", highlight=False, markup=False, soft_wrap=True)


def _share(text: str) -> float:
    number = text.strip()
    try:
        return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise UserError(f"--tolerance: expected a share such as 5% or 0.05, got '{text}'") from None
