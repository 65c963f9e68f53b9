"""``vlmprof batch``: what was measured about batch sizes, and how to forget it."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from vlmprof.cli.output import out
from vlmprof.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Show or forget the batch sizes that were measured here.")


@app.command("show")
def show_sizes() -> None:
    """List the worlds: a device with a model and the versions it ran on, the newest first."""
    from vlmprof.batch_size.cache import default_folder, summaries

    columns = ("world", "device", "model", "torch", "configurations", "probes", "out of memory", "last asked")
    table = Table(*columns, box=None)
    for one in summaries(default_folder()):
        said = (str(one.about.get(name, "")) for name in ("device", "model", "torch"))
        counts = (str(count) for count in (one.configurations, one.probes, one.out_of_memory))
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last_used))
        table.add_row(one.memory_key, *said, *counts, when)
    out.print(table if table.row_count else "nothing was measured yet", highlight=False)
    out.print(f"\nin {default_folder()}", highlight=False, soft_wrap=True)


@app.command("clear")
def clear_sizes(
    world: Annotated[str, typer.Argument(help="A world, or the beginning of its name.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every world.")] = False,
) -> None:
    """Forget what was measured; it is measured again when it is needed."""
    from vlmprof.batch_size.cache import clear, default_folder

    if bool(world) == everything:
        raise UserError("name a world, as 'vlmprof batch show' lists them, or say --all")
    gone = clear(default_folder(), world)
    if world and not gone:
        raise UserError(f"no world begins with '{world}'; 'vlmprof batch show' lists them")
    out.print("\n".join(f"forgot {name}" for name in gone) or "nothing was there", highlight=False)
