"""``vlmprof oracle``: what choosing a configuration for each sample could gain, and exports for controllers."""

from __future__ import annotations

from typing import Annotated

import typer

from vlmprof.cli.output import out
from vlmprof.cli.results import Results
from vlmprof.errors import UserError

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
) -> None:
    """Say what choosing for each sample could gain under a budget, how much may be luck, and what simple rules gain."""
    from vlmprof.analyze.oracle import oracle
    from vlmprof.report.oracle_table import oracle_report

    found = oracle(folder, _budgets(budget), by=by, cost=cost, penalty=penalty, violations=violations)
    for part in oracle_report(found):
        out.print(part)


def _budgets(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--budget: expected numbers such as 0.5,0.7, got '{text}'") from None
