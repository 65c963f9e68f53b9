"""``vlmprof coupling`` and ``transfer``: how knobs act together, and whether a front holds elsewhere. Reads tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmprof.cli.output import out
from vlmprof.cli.results import Results

app = typer.Typer()


@app.command("coupling")
def show_coupling(
    folder: Results,
    by: Annotated[str, typer.Option(help="Part of a group's name, where there are several.")] = "",
    time: Annotated[str, typer.Option(help="The time to look at beside accuracy.")] = "latency_ms_p50",
    to: Annotated[
        Path | None, typer.Option(help="Draw the effects to this .png, .svg or .pdf.", show_default=False)
    ] = None,
) -> None:
    """Say how knobs act together: variance by knob and pair, interactions, the front with one knob held."""
    from vlmprof.analyze.coupling import coupling
    from vlmprof.report.coupling_table import coupling_report

    found = coupling(folder, by, time)
    for part in coupling_report(found):
        out.print(part)
    if to is not None:
        from vlmprof.plots._interaction import draw_interactions

        draw_interactions(found, to)
        out.print(f"\nDrawn: {to}", highlight=False, soft_wrap=True)
