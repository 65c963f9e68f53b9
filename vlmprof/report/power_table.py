"""How many samples a difference needs, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze.comparing.power import Power

PAIRS = {"all": "of all", "near": "not told apart now", "full": "with the full model"}


def power_report(found: Power) -> Iterator[RenderableType]:
    """What to print."""
    for name, part in found.frame.groupby("group", sort=False):
        yield Text(f"\n{name}", style="bold")
        yield Text(
            f"to tell a difference of {found.difference:g} in accuracy at 95 % with a chance of {100 * found.power:g} %"
        )
        yield _table(part)
        yield Text(
            "needed: samples that come in pictures as these do; smallest: the difference that the present samples tell"
            " with that chance",
            style="dim",
        )
    yield Text("for one pair that was chosen beforehand: whoever looks at many pairs needs more", style="dim")
    yield from (Text(f"beware: {caveat}", style="yellow") for caveat in found.caveats)


def _table(part: pd.DataFrame) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    numbers = ("samples\nneeded", "pictures\nneeded", "samples\nnow", "smallest\nnow", "difference\nmeasured")
    for i, header in enumerate(("pair", "first", "second", *numbers)):
        table.add_column(header, justify="left" if i < 3 else "right", vertical="bottom", no_wrap=i >= 3)
    for _, row in part.iterrows():
        table.add_row(*_cells(row))
    return table


def _cells(row: pd.Series[Any]) -> list[str]:
    return [
        f"{row['which']} {PAIRS[row['pairs_of']]}",
        str(row["first"]),
        str(row["second"]),
        f"{row['samples_needed']:,}",
        f"{row['pictures_needed']:,}",
        f"{row['samples']:,}",
        f"{row['smallest_difference']:.4f}",
        f"{row['difference']:+.4f}",
    ]
