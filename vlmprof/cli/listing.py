"""``vlmprof list``: the knobs, models, tasks, metrics, strategies and plots there are."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vlmprof import registry
from vlmprof.cli.output import out

app = typer.Typer()


@app.command("list")
def list_leaves(
    kind: Annotated[str, typer.Argument(help="knobs, models, tasks, metrics, strategies or plots")] = "",
) -> None:
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
    from vlmprof.models._support_matrix import family_table

    table = Table("", "family", "vision unit", "knobs", "", box=None, header_style="bold", pad_edge=False)
    for row in family_table():
        note = "needs torchvision" if row.needs_torchvision else ""
        table.add_row(row.name, row.family, row.vision_unit or "not known", " ".join(row.knobs), note)
    return table
