"""``vlmprof list``: the available knobs, models, tasks, metrics, strategies and plots."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmprof import registry
from vlmprof.cli.output import out

if TYPE_CHECKING:
    from vlmprof.metrics.metric import Metric

app = typer.Typer()


@app.command("list")
def list_leaves(
    kind: Annotated[str, typer.Argument(help="knobs, models, tasks, metrics, strategies or plots")] = "",
) -> None:
    """List the leaves of one kind."""
    from vlmprof.errors import UnknownNameError

    if kind and kind not in registry.KINDS:
        raise UnknownNameError("kind", kind, list(registry.KINDS))
    for name in [kind] if kind else registry.KINDS:
        out.print(f"{name}: {', '.join(registry.names(name))}", highlight=False, soft_wrap=True)
    if kind and kind != "models":
        out.print(_leaves(kind))
    if kind == "models":
        out.print(_family_table())


def _leaves(kind: str) -> Table:
    """A line for each leaf: its name, of a task its metric and splits, of both the scale, and what it is."""
    about = {"tasks": ("metric", "scale", "splits"), "metrics": ("scale", "over")}.get(kind, ())
    table = Table("", *about, "", box=None, header_style="bold", pad_edge=False)
    for name in registry.names(kind):
        leaf = registry.load(kind, name)
        words = _first_sentence(sys.modules.get(f"{registry.KINDS[kind].package}.{name}"))
        if kind == "tasks":
            facts = [leaf.metric.name, _scale(leaf.metric), ", ".join(leaf.splits)]
        else:
            facts = [_scale(leaf), "each answer" if leaf.corpus is None else "all answers"] if kind == "metrics" else []
        table.add_row(name, *map(Text, facts), Text(words.removeprefix(f"{name}: ")))
    return table


def _scale(metric: Metric) -> str:
    """The range of a metric, from its worst to its best value."""
    return f"0 to {metric.perfect:g}"


def _first_sentence(module: ModuleType | None) -> str:
    """The first sentence of a module's docstring; empty for a leaf of another package."""
    words = " ".join(((module.__doc__ if module else "") or "").partition("\n\n")[0].split())
    return words.partition(". ")[0].rstrip(".").replace("``", "")


def _family_table() -> Table:
    """The knobs that each architecture supports, found by building its modules without weights; takes seconds."""
    from vlmprof.models._support_matrix import family_table

    table = Table("", "family", "vision unit", "knobs", "", box=None, header_style="bold", pad_edge=False)
    for row in family_table():
        note = "needs torchvision" if row.needs_torchvision else ""
        table.add_row(row.name, row.family, row.vision_unit or "not known", " ".join(row.knobs), note)
    return table
