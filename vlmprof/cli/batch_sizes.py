"""``vlmprof batch``: show and delete the measured batch sizes."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from vlmprof.cli.output import out
from vlmprof.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Show or delete the batch sizes that were measured on this machine.")


@app.command("show")
def show_sizes() -> None:
    """List the memory keys, the last used first: one for each device, model and set of library versions."""
    from vlmprof.batch_size.cache import default_folder, summaries

    columns = ("memory key", "device", "model", "torch", "configurations", "probes", "out of memory", "last used")
    table = Table(*columns, box=None)
    for entry in summaries(default_folder()):
        description = (str(entry.about.get(name, "")) for name in ("device", "model", "torch"))
        counts = (str(count) for count in (entry.configurations, entry.probes, entry.out_of_memory))
        last_used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        table.add_row(entry.memory_key, *description, *counts, last_used)
    out.print(table if table.row_count else "nothing was measured yet", highlight=False)
    out.print(f"\nin {default_folder()}", highlight=False, soft_wrap=True)


@app.command("clear")
def clear_sizes(
    name: Annotated[str, typer.Argument(help="A memory key, or the beginning of one.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every memory key.")] = False,
) -> None:
    """Delete measured batch sizes; they are measured again when they are needed."""
    from vlmprof.batch_size.cache import clear, default_folder

    if bool(name) == everything:
        raise UserError("name a memory key, as 'vlmprof batch show' lists them, or give --all")
    deleted = clear(default_folder(), name)
    if name and not deleted:
        raise UserError(f"no memory key begins with '{name}'; 'vlmprof batch show' lists them")
    out.print("\n".join(f"deleted {entry}" for entry in deleted) or "there was nothing to delete", highlight=False)
