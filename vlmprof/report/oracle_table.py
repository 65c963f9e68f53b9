"""The oracle, its headroom and the baselines, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze.adaptive.oracle import Oracle
from vlmprof.analyze.adaptive.router import Routing
from vlmprof.report.coupling_table import heading, interval, plain_table

NOT_A_METHOD = (
    "the oracle knows the answers: a bound that no method reaches, and part of it is luck (docs/decisions/oracle.md)"
)
LUCK = "luck alone: the headroom if no sample preferred any configuration; a headroom like it is no reason to choose"
REPEATABLE = (
    "repeatable: gained by who sees a sample's answers in other configurations; a lower bound, if luck is not shared"
)
ON_THE_SAME = "the best configuration was chosen on the samples it is reported on: report its accuracy on others"


def oracle_report(found: Oracle) -> Iterator[RenderableType]:
    """What to print: for each group the headroom by budget, the rules by budget, and what they rest on."""
    for name, part in found.headroom.groupby("group", sort=False):
        yield heading(str(name))
        yield _headroom("\nbest score of each sample within the budget", part)
        yield from (Text(sentence, style="dim") for sentence in (NOT_A_METHOD, LUCK, REPEATABLE, ON_THE_SAME))
        yield _policies("\nrules that choose for each sample", found.frame[found.frame["group"] == name])
    yield Text("")
    yield from (Text(sentence, style="dim") for sentence in found.captions)
    yield from (Text(f"beware: {sentence}", style="yellow") for sentence in found.caveats)


def routing_report(found: Routing) -> Iterator[RenderableType]:
    """What to print of simple predictors: their areas, and what sending samples by them gains at equal mean cost."""
    for name, part in found.frame.groupby("group", sort=False):
        yield heading(str(name))
        table = plain_table("\nwhich samples need the full configuration", ("known of a sample", "AUC [95 %]"))
        for _, row in part.iterrows():
            table.add_row(str(row["predictor"]), interval(row, "auc", 1, 3))
        yield table
        yield Text(f"{part['needing'].iloc[0]} of {part['samples'].iloc[0]} samples need it", style="dim")
        headers = ("mean cost", "sent by", "sent to the full one", "score", "at random", "gain % [95 %]")
        sent = plain_table("\nsent to the full configuration, the others to the cheap one", headers)
        for _, row in found.floor[found.floor["group"] == name].iterrows():
            gain = interval(row, "gain", 100, 1) if row["within"] else "the cheap one is beyond the budget"
            scores = [f"{row[column]:.3f}" for column in ("share", "score", "random")]
            sent.add_row(_share(row["budget"]), str(row["predictor"]), *scores, gain)
        yield sent
    yield from (Text(sentence, style="dim") for sentence in found.captions)
    yield from (Text(f"beware: {sentence}", style="yellow") for sentence in found.caveats)


def _headroom(title: str, part: pd.DataFrame) -> Table:
    headers = ("budget", "best configuration", "its score", "oracle", "headroom % [95 %]", "luck alone", "repeatable %")
    table = plain_table(title, headers)
    for _, row in part.iterrows():
        table.add_row(
            _share(row["budget"]),
            "none within it" if pd.isna(row["static"]) else str(row["static"]),
            _number(row["static_score"]),
            _number(row["oracle_score"]),
            interval(row, "headroom", 100, 1),
            "-" if pd.isna(row["luck"]) else f"{100 * row['luck']:.1f}",
            interval(row, "repeatable", 100, 1),
        )
    return table


def _policies(title: str, part: pd.DataFrame) -> Table:
    headers = ("budget", "rule", "score", "cost", "beyond budget", "reward", "regret")
    table = plain_table(title, headers)
    last = None
    for _, row in part.iterrows():
        table.add_row(
            "" if row["budget"] == last else _share(row["budget"]),
            str(row["policy"]),
            interval(row, "score", 1, 3),
            f"{row['cost']:.3f}",
            interval(row, "violations", 1, 2),
            interval(row, "reward", 1, 3),
            interval(row, "regret", 1, 3),
        )
        last = row["budget"]
    return table


def _share(budget: float) -> str:
    return f"{budget:g}"


def _number(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.3f}"
