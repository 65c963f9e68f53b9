"""The best configuration under a condition, on the terminal: the answer, the safe answer, runner-ups, their doubt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze import wording
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.choosing.best import Best, Choice, misses
from vlmprof.analyze.choosing.contests import any_column
from vlmprof.analyze.comparability import model_names
from vlmprof.analyze.conditions import columns_of, text_of
from vlmprof.analyze.objectives import Objective
from vlmprof.plan.point import words_of
from vlmprof.stats.intervals import MeanInterval
from vlmprof.stats.selection import SPLITS
from vlmprof.store.schema import knobs_of
from vlmprof.store.tables import schema_of

NEAREST = 3
"""So many are shown where nothing meets the condition."""


def best_report(found: Best) -> Iterator[RenderableType]:
    """What to print: for each group a table, then what is to be known about its winner."""
    for choice in found.choices:
        yield _table(found, choice)
        yield from (Text(sentence) for sentence in _verdict(found, choice))
        yield from (Text(sentence, style="dim") for sentence in (*_legend(choice), *choice.captions))
        for sentence in (*choice.caveats, *cautions(choice.rows), *choice.rows.attrs["mixed"]):
            yield Text(f"beware: {sentence}", style="yellow")
    for why, count in found.left_out.items():
        yield Text(f"left out: {count} {why}", style="yellow")


def _table(found: Best, choice: Choice) -> Table:
    rows = choice.rows
    shown = rows[rows["role"].notna()] if choice.answer or choice.safe else rows.head(NEAREST)
    knobs = [knob for knob in knobs_of(rows.columns) if rows[f"requested_{knob}"].notna().any()]
    columns = _columns(found, choice)
    models = dict(zip(rows["trial"], model_names(rows), strict=True)) if rows["model"].nunique() > 1 else None
    table = Table(
        title=f"\n{_title(found, choice)}", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for header in ("", *(("model",) if models is not None else ())):
        table.add_column(header, no_wrap=True, vertical="bottom")
    for header in (*knobs, *(_header(one) for one in columns), "P\nfeasible", "P\nbest", _difference_header(choice)):
        table.add_column(header, justify="right", no_wrap=True, vertical="bottom")
    for _, row in shown.iterrows():
        named = [models[row["trial"]]] if models is not None else []
        settings = [wording.setting(row, knob) + wording.mark(row, knob) for knob in knobs]
        values = [wording.measured(row, one) for one in columns]
        role = str(row["role"]) if pd.notna(row["role"]) else "nearest"
        doubt = [_share(row["probability_feasible"]), _share(row["probability_best"]), _difference(choice, row)]
        style = "bold green" if "answer" in role or role == "safe" else ""
        table.add_row(role, *named, *settings, *values, *doubt, style=style)
    return table


def _columns(found: Best, choice: Choice) -> list[Objective]:
    named = columns_of(found.condition) if found.condition is not None else ()
    others = [any_column(name, schema_of(choice.rows)) for name in named if name != choice.objective.column]
    return [choice.objective, *others]


def _title(found: Best, choice: Choice) -> str:
    aim = f"{'highest' if choice.objective.better == 'higher' else 'lowest'} {choice.objective.column}"
    where = f" where {text_of(found.condition)}" if found.condition is not None else ""
    return f"{choice.group}: {aim}{where}; {int(choice.rows['feasible'].sum())} of {len(choice.rows)} meet it"


def _header(objective: Objective) -> str:
    return f"{objective.column}\n{' '.join(filter(None, [wording.unit(objective), '[95 %]']))}"


def _difference_header(choice: Choice) -> str:
    return f"than the answer\n{'%' if choice.by_ratio else ''} [95 %]".replace("\n ", "\n")


def _share(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"


def _difference(choice: Choice, row: pd.Series[Any]) -> str:
    if pd.isna(row["difference"]) or row["trial"] == choice.answer:
        return "-"
    ends = None if pd.isna(row["difference_low"]) else (float(row["difference_low"]), float(row["difference_high"]))
    return signed(float(row["difference"]), ends, by_ratio=choice.by_ratio)


def signed(value: float, ends: tuple[float, float] | None, *, by_ratio: bool) -> str:
    """A difference with its interval: ``-0.042 [-0.090, +0.006]``, or in percent."""
    scale, digits = (100, 1) if by_ratio else (1, 3)
    words = f"{scale * value:+.{digits}f}"
    return words + (f" [{scale * ends[0]:+.{digits}f}, {scale * ends[1]:+.{digits}f}]" if ends is not None else "")


def _verdict(found: Best, choice: Choice) -> Iterator[str]:
    if choice.answer is None:
        yield _nothing(found, choice)
    else:
        yield _of_winner(choice)
    if choice.confirmed is not None:
        yield _of_confirmed(choice)
    yield from _of_safe(found, choice)


def _nothing(found: Best, choice: Choice) -> str:
    nearest = choice.rows.iloc[0]
    why = "; ".join(misses(choice, found.condition)) if found.condition is not None else ""
    share = f"{100 * nearest['missed']:.3g} %"
    return f"nothing meets the condition; the nearest, {words_of(nearest['point'])}, misses it by {share}: {why}"


def _of_winner(choice: Choice) -> str:
    if choice.corrected is None:
        return "the answer's value is optimistic, as it was chosen by it; by how much is not known here"
    by, is_best = _number(choice, choice.optimism or 0.0), f"{100 * (choice.is_best or 0.0):.0f} %"
    return (
        f"the answer's {choice.objective.column} is optimistic by about {by}, as it was chosen for it:"
        f" expect {_interval(choice, choice.corrected)}; it truly is the best with about {is_best};"
        " whoever chose on some samples should report on others"
    )


def _of_confirmed(choice: Choice) -> str:
    assert choice.confirmed is not None
    trial, found = choice.confirmed.trial, choice.confirmed.found
    same = "the answer" if trial == choice.answer else words_of(choice.row(trial)["point"])
    return (
        f"confirmed: chosen on {found.chosen_on} samples, {same} has {_interval(choice, found.score)} on the other"
        f" {found.reported_on}; the same is chosen in {100 * found.again:.0f} % of {SPLITS} other halves"
    )


def _of_safe(found: Best, choice: Choice) -> Iterator[str]:
    sure = f"{100 * found.wanted.sure:g} %"
    if found.condition is None or choice.rows["probability_feasible"].isna().all():
        return
    if choice.safe is None:
        yield f"no configuration meets the condition in {sure} of draws"
    elif choice.price is not None and choice.safe != choice.answer:
        price = signed(choice.price.mean, (choice.price.low, choice.price.high), by_ratio=choice.by_ratio)
        unit = " %" if choice.by_ratio else ""
        yield f"the price of certainty ({sure} of draws within the condition): {choice.objective.column} {price}{unit}"


def _legend(choice: Choice) -> Iterator[str]:
    if choice.rows["probability_best"].notna().any():
        yield "P: share of joint draws of all that was measured; for the answer, which was chosen, both are too high"
    marks = {mark for knob in knobs_of(choice.rows.columns) for mark in wording.marks_of(choice.rows, knob)}
    yield from wording.legend(marks)


def _number(choice: Choice, value: float) -> str:
    digits = 3 if choice.objective.unit == "fraction" else 2
    unit = wording.unit(choice.objective)
    return f"{value:.{digits}f}{f' {unit}' if unit else ''}"


def _interval(choice: Choice, found: MeanInterval) -> str:
    return wording.with_interval(found.mean, found.low, found.high, choice.objective.unit)
