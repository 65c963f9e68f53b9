"""How far fronts of several places agree, on the terminal. Names of places stand once, as letters in the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze import wording
from vlmprof.analyze.coupling.transfer import Transfer
from vlmprof.report.coupling_table import interval, plain_table

OVERLAP = "overlap: shared members over all members of the two fronts; ends: what the doubt of both fronts allows"
REGRET = (
    "regret: quality lost at equal latency where only the front measured at the first place may be used at the second"
)
REPORT = "whoever chose configurations at one place reports what they reach on samples of the other that were not used"


def transfer_report(found: Transfer) -> Iterator[RenderableType]:
    """What to print: the places, each pair, the membership, averages over tasks, sentences."""
    places = [str(name) for name in found.membership.columns if name != "point"]
    letters = {name: wording.letters(i + 1).upper() for i, name in enumerate(places)}
    yield Text("")
    yield from (Text(f"{letter}: {name}") for name, letter in letters.items())
    yield _pairs(found.frame, letters)
    yield from (Text(sentence, style="dim") for sentence in (OVERLAP, REGRET, REPORT))
    yield _membership(found.membership, letters)
    for of, part in found.macro.groupby("of", sort=False):
        yield _macro(f"\nfront of averages over {part['tasks'].iloc[0]}: {of}", part)
    yield Text("")
    yield from (Text(sentence, style="dim") for sentence in found.captions)
    yield from (Text(f"beware: {sentence}", style="yellow") for sentence in found.caveats)


def _pairs(frame: pd.DataFrame, letters: Mapping[str, str]) -> Table:
    headers = (
        *("first", "second", "differ in", "common", "overlap", "rank r, quality", "tau, quality", "rank r, time"),
        *("regret % [95 %]", "front kept %"),
    )
    table = plain_table("\nfrom the first place to the second", headers)
    for _, row in frame.iterrows():
        table.add_row(
            letters[row["a"]],
            letters[row["b"]],
            row["differs"],
            str(row["common"]),
            *(
                interval(row, name, 1, 2)
                for name in ("jaccard", "spearman_quality", "kendall_quality", "spearman_time")
            ),
            interval(row, "regret", 100, 2),
            interval(row, "front_kept", 100, 1),
        )
    return table


def _membership(frame: pd.DataFrame, letters: Mapping[str, str]) -> Table:
    table = plain_table("\non the front", ("configuration", *letters.values()))
    for _, row in frame.iterrows():
        table.add_row(str(row["point"]), *("" if row[name] == "no" else str(row[name]) for name in letters))
    return table


def _macro(title: str, part: pd.DataFrame) -> Table:
    table = plain_table(title, ("configuration", "quality", "time (ms)", "on it", "P"))
    for _, row in part.iterrows():
        tier = "" if row["front_membership"] == "no" else str(row["front_membership"])
        probability = f"{row['front_probability']:.2f}"
        table.add_row(str(row["point"]), f"{row['quality']:.3f}", f"{row['time']:.2f}", tier, probability)
    return table
