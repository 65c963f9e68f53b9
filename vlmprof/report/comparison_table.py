"""A comparison on the terminal: a row a pair, what is behind a single pair, what differs besides, and the alarm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze import wording
from vlmprof.analyze.comparing.alarms import FAMILY, reasons
from vlmprof.stats.intervals import MeanInterval
from vlmprof.store.schema import knobs_of

if TYPE_CHECKING:
    from vlmprof.analyze.comparing.calibration import Calibration
    from vlmprof.analyze.comparing.changes import Change
    from vlmprof.analyze.comparing.comparison import RunComparison
    from vlmprof.analyze.comparing.pair_detail import PairDetail

MANY = 40
"""From so many pairs on, only those in which something changed surely, or that raise the alarm, have a row."""
TOLD_APART = 0.05
LISTED = 10
"""Pairs that raise the alarm that are spelt out."""
STAR = "* changed, at 5 % for all pairs of the column together (Holm); intervals are of single pairs, 95 %"


def comparison_report(
    comparison: RunComparison, detail: PairDetail | None = None, samples: int = 10
) -> Iterator[RenderableType]:
    """What to print.

    Args:
        comparison: What was compared.
        detail: What is behind its only pair.
        samples: How many samples that fell, and that rose, are listed.
    """
    yield from _pairs(comparison)
    yield Text(STAR, style="dim")
    if detail is not None:
        yield from _detail(comparison, detail, samples)
    if len(comparison.provenance):
        yield _title("What differs besides")
        yield _provenance(comparison)
    yield from (Text(caption, style="dim") for caption in comparison.captions)
    caveats = [*comparison.caveats, *(detail.caveats if detail else ())]
    yield from (Text(f"beware: {caveat}", style="yellow") for caveat in caveats)
    yield from _alarm(comparison)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _table(headers: Sequence[str], left: int = 1) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < left else "right", vertical="bottom", no_wrap=i >= left)
    return table


def _pairs(comparison: RunComparison) -> Iterator[RenderableType]:
    frame, changes, shown = comparison.frame, comparison.changes, _worth_a_row(comparison)
    rest = f", {len(shown)} with a change shown" if len(shown) < len(frame) else ""
    yield _title(f"{comparison.names[0]} → {comparison.names[1]}: {plural(len(frame), 'pair')}{rest}")
    if not shown:
        return
    several = frame["model"].nunique() > 1 or frame["task"].nunique() > 1
    knobs = _knobs(comparison)
    named = [*(["model, task"] if several else []), *knobs]
    table = _table([*named, *(part for name, change in changes.items() for part in _headers(name, change))], len(named))
    for i in shown:
        row = frame.iloc[i]
        words = [f"{row['model']}, {row['task']}"] if several else []
        words += [_setting(comparison, i, knob) for knob in knobs]
        cells = [cell for name, change in changes.items() for cell in _cells(row, name, change)]
        table.add_row(*words, *cells, style="bold red" if row.get("alarm") == "surely" else None)
    yield table


def _knobs(comparison: RunComparison) -> list[str]:
    """Knobs that any of the trials sets."""
    sides = (comparison.pairs.first, comparison.pairs.second)
    known = dict.fromkeys(knob for rows in sides for knob in knobs_of(str(name) for name in rows.columns))
    return [
        k for k in known if any(f"requested_{k}" in rows and rows[f"requested_{k}"].notna().any() for rows in sides)
    ]


def _setting(comparison: RunComparison, pair: int, knob: str) -> str:
    """A knob's value in both, ``9 → 1`` where it differs."""
    rows = [side.iloc[pair] for side in (comparison.pairs.first, comparison.pairs.second)]
    first, second = (wording.setting(row, knob) if f"requested_{knob}" in row else "-" for row in rows)
    return first if first == second else f"{first} → {second}"


def _worth_a_row(comparison: RunComparison) -> list[int]:
    frame = comparison.frame
    if len(frame) < MANY:
        return list(range(len(frame)))
    starred = np.any([frame[f"{name}_p_holm"] < TOLD_APART for name in comparison.changes], axis=0)
    alarming = frame["alarm"] == "surely" if "alarm" in frame else False
    return [int(i) for i in np.flatnonzero(starred | alarming)]


def _headers(name: str, change: Change) -> list[str]:
    readings = ["change\n[95 %]" if change.has_error else "change"]
    if name == "accuracy":
        readings += ["samples\nup, down"]
    if change.relative is not None:
        readings += ["relative to\nthe canary"]
    return [f"{name}\nfirst → second", *readings]


def _cells(row: pd.Series[Any], name: str, change: Change) -> list[str]:
    first, second = (_number(row[f"{name}_{side}"], change.unit) for side in "ab")
    ends = (f"{name}_change", f"{name}_change_low", f"{name}_change_high")
    star = " *" if row[f"{name}_p_holm"] < TOLD_APART else "  "
    cells = [f"{first} → {second}", _change(change, *(row[end] for end in ends)) + star]
    if name == "accuracy":
        moved = [row.get("accuracy_rose"), row.get("accuracy_fell")]
        cells.append("-" if pd.isna(moved[0]) else ", ".join(f"{count:.0f}" for count in moved))
    if change.relative is not None:
        cells.append(_change(change, *(row[f"{name}_relative{end}"] for end in ("", "_low", "_high"))))
    return cells


def _change(change: Change, value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    if change.by_ratio:
        ends = "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        return f"{100 * value:+.1f} %{ends}"
    ends = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{value:+.3f}{ends}"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    if unit == "bytes":
        return f"{value / 1024**3:.2f} GiB"
    return f"{value:.3f}" if unit in ("fraction", "") else f"{value:.2f}"


def _detail(comparison: RunComparison, detail: PairDetail, samples: int) -> Iterator[RenderableType]:
    yield from _tests(comparison)
    headers = ("question type", "samples", "first", "second", "change [95 %]")
    yield _title("By question type")
    table = _table(headers)
    for _, row in detail.by_type.iterrows():
        change = f"{row['change']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        star = " *" if row["p_holm"] < TOLD_APART else "  "
        table.add_row(
            str(row["question_type"]), str(row["samples"]), f"{row['first']:.3f}", f"{row['second']:.3f}", change + star
        )
    yield table
    for title, part in (("lower", detail.fell), ("higher", detail.rose)):
        more = f", {samples} of them here" if len(part) > samples else ""
        yield _title(f"{plural(len(part), 'sample')} score{'s' if len(part) == 1 else ''} {title} in the second{more}")
        if len(part):
            yield _samples(part.head(samples))
    yield Text(f"\nthe same answer in both: {_share(detail.same_answers)}")
    for one in detail.loyalties:
        yield Text(f"the full model's answer ({one.full}) in {one.of}: {_share(one.same)} of {one.samples} samples")
        yield from ([Text(f"beware: {one.remark}", style="yellow")] if one.remark else [])


def _tests(comparison: RunComparison) -> Iterator[Text]:
    row = comparison.frame.iloc[0]
    if pd.isna(row.get("accuracy_drawn_low")):
        return
    drawn = f"[{row['accuracy_drawn_low']:+.4f}, {row['accuracy_drawn_high']:+.4f}]"
    mcnemar = row["accuracy_mcnemar_p"]
    told = f"McNemar's mid-p {mcnemar:.3g}" if pd.notna(mcnemar) else "no McNemar's test, scores are not only 0 and 1"
    counted = f"{row['accuracy_samples']:.0f} samples of {row['accuracy_clusters']:.0f} pictures"
    yield Text(f"accuracy over {counted}: by draws of pictures {drawn}; {told}", style="dim")


def _samples(shown: pd.DataFrame) -> Table:
    known = [name for name in ("question", "references") if shown[name].notna().any()]
    headers = ("sample", "type", *known, "first", "second", "score")
    table = _table(headers, left=len(headers) - 1)
    for _, row in shown.iterrows():
        told = [_text(row[name]) for name in known]
        answers = [_text(row["prediction_a"]), _text(row["prediction_b"])]
        scores = f"{row['score_a']:.2g} → {row['score_b']:.2g}"
        table.add_row(_text(row["sample"]), _text(row["question_type"]), *told, *answers, scores)
    return table


LONGEST = 80
"""Characters of a question or an answer; the file of ``--to`` has all."""


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return _text(" | ".join(dict.fromkeys(map(str, value))))
    if value is None or pd.isna(value):
        return "-"
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _share(interval: MeanInterval) -> str:
    return wording.with_interval(interval.mean, interval.low, interval.high, "fraction")


def _provenance(comparison: RunComparison) -> Table:
    table = _table(("column", "first", "second"), left=3)
    for _, row in comparison.provenance.iterrows():
        table.add_row(row["column"], row["first"], row["second"])
    return table


def _alarm(comparison: RunComparison) -> Iterator[Text]:
    alarm, condition = comparison.alarm, comparison.condition
    if alarm is None or condition is None:
        return
    pairs, sure = len(alarm.surely), [int(i) for i in np.flatnonzero(alarm.surely)]
    tested = f"{alarm.statements} comparisons, all together at 5 %"
    if not sure:
        unclear = int((~alarm.surely & ~alarm.surely_not).sum())
        yield Text(f"\nno alarm: {alarm.text} is surely true of none of {pairs} pairs, open in {unclear} ({tested})")
        return
    yield Text(f"\nALARM: {alarm.text} is surely true of {len(sure)} of {pairs} pairs ({tested})", style="bold red")
    for i in sure[:LISTED]:
        row = comparison.frame.iloc[i]
        why = "; ".join(reasons(alarm, condition, comparison.changes, i))
        yield Text(f"  {row['point_b']} ({row['trial_b']}): {why}", style="red")
    if len(sure) > LISTED:
        yield Text(f"  and {len(sure) - LISTED} more", style="red")


def calibration_report(found: Calibration) -> Iterator[RenderableType]:
    """What to print of the false alarms among independent runs of one job."""
    yield _title(f"{found.text}: {plural(found.runs, 'run')} of one job, each compared with each")
    table = _table(
        ("first", "second", "pairs", "alarm", *(f"{name}, lowest to highest change" for name in found.columns)), 2
    )
    for _, row in found.frame.iterrows():
        ranges = [_range(row, name) for name in found.columns]
        table.add_row(row["first"], row["second"], str(row["pairs"]), "ALARM" if row["alarm"] else "no", *ranges)
    yield table
    share = f"{found.alarms} of {plural(len(found.frame), 'comparison')}"
    rate = f"{100 * found.rate.mean:.1f} % [{100 * found.rate.low:.1f}, {100 * found.rate.high:.1f}]"
    yield Text(f"\nfalse alarms: {share}, {rate}; promised: at most {100 * FAMILY:g} %", style="bold")
    yield Text(
        f"the interval is that of {found.size:g} independent comparisons: each run takes part in several", style="dim"
    )
    yield from (Text(f"beware: {caveat}", style="yellow") for caveat in found.caveats)


def _range(row: pd.Series[Any], name: str) -> str:
    low, high = row[f"{name}_lowest"], row[f"{name}_highest"]
    if pd.isna(low):
        return "-"
    by_ratio = bool(row[f"{name}_by_ratio"])
    return f"{100 * low:+.1f} % to {100 * high:+.1f} %" if by_ratio else f"{low:+.4f} to {high:+.4f}"


def plural(count: int, noun: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{count} {noun}{'s' if count != 1 else ''}"
