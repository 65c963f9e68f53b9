"""``vlmprof coupling`` and ``transfer``: how knobs act together, and whether a front holds elsewhere. Reads tables."""

from __future__ import annotations

from typing import Annotated

import typer

from vlmprof.cli.output import out
from vlmprof.cli.results import Figure, Results, names_in

app = typer.Typer()


@app.command("coupling")
def show_coupling(
    folder: Results,
    by: Annotated[str, typer.Option(help="Part of a group's name, where there are several.")] = "",
    time: Annotated[str, typer.Option(help="The time to look at beside accuracy.")] = "latency_ms_p50",
    figure: Figure = None,
) -> None:
    """Say how knobs act together: variance by knob and pair, interactions, the front with one knob held."""
    from vlmprof.analyze.coupling.coupling import coupling
    from vlmprof.report.coupling_table import coupling_report

    found = coupling(folder, by, time)
    for part in coupling_report(found):
        out.print(part)
    if figure is not None:
        from vlmprof.plots._interaction import draw_interactions

        draw_interactions(found, figure)
        out.print(f"\nWritten: {figure}", highlight=False, soft_wrap=True)


@app.command("transfer")
def show_transfer(
    folders: Annotated[
        list[str], typer.Argument(help="Results: one folder with several groups, or several.", show_default=False)
    ],
    by: Annotated[str, typer.Option(help="Part of the names of the groups to look at.")] = "",
    time: Annotated[str, typer.Option(help="The time to look at beside quality.")] = "latency_ms_p50",
    despite: Annotated[
        str, typer.Option(help="What may differ besides model, task and device, comma-separated: seed,dtype.")
    ] = "",
) -> None:
    """Say how far fronts agree across tasks, models, devices and folders, and what one costs where another holds."""
    from vlmprof.analyze.coupling.transfer import transfer
    from vlmprof.report.transfer_table import transfer_report

    for part in transfer_report(transfer(folders, by=by, time=time, despite=names_in(despite))):
        out.print(part)
