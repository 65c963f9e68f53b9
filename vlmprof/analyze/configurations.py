"""Which trials a user means: by the words of its settings, by its id, or ``full``, the model without knobs.

``max_crops=9 moe_top_k=1`` names trials by the settings that tables show; of knobs that are not named any value counts.
``full`` is the trial that sets no knob, else the one in which no knob changes or limits anything, else the one with
every knob at its largest value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from vlmprof.errors import UserError, suggestion
from vlmprof.plan.point import words_of
from vlmprof.store.schema import knobs_of

FULL = "full"
WITHOUT_CHANGE = ("no-op", "not applicable", "saturated")
"""Effects of a value with which the model does what it does without the knob, on these samples."""
SHORTEST_ID = 4
_ID = re.compile(rf"[0-9a-f]{{{SHORTEST_ID},12}}")
_SETTING = re.compile(r"(?P<knob>[A-Za-z_]\w*)=(?P<label>.*?)(?=\s+[A-Za-z_]\w*=|\s*$)")
OF_A_SET = ("model", "task", "split")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The trials that some words name."""

    rows: pd.DataFrame
    words: str = ""
    """As given; empty for all trials."""
    knobs: tuple[str, ...] = ()
    """Named in the words."""
    caveats: tuple[str, ...] = ()


def chosen(rows: pd.DataFrame, words: str) -> Chosen:
    """The trials that these words name.

    Args:
        rows: finished trials, as ``analyze.comparability.comparable`` gives them.
        words: ``full``, an id or its beginning, or settings such as ``max_crops=9 active_blocks=prefix 4``; empty: all.

    Raises:
        UserError: nothing has this name; the message says what there is.
    """
    words = words.strip()
    if not words:
        return Chosen(rows=rows)
    if words == FULL:
        return _full(rows)
    named = rows[rows["trial"].str.startswith(words)] if _ID.fullmatch(words) else rows.iloc[:0]
    if len(named) > 1:
        raise UserError(f"'{words}' begins the ids of {len(named)} trials: {', '.join(named['trial'])}")
    return Chosen(rows=_kept(named, rows), words=words) if len(named) else _by_settings(rows, words)


def settings_in(words: str) -> dict[str, str]:
    """``max_crops=9 active_blocks=prefix 4`` -> knob -> value as tables write it; empty where it is none."""
    found = list(_SETTING.finditer(words))
    whole = "".join(part[0] for part in found)
    if re.sub(r"\s", "", whole) != re.sub(r"\s", "", words):
        return {}
    return {part["knob"]: part["label"].strip() for part in found}


def _by_settings(rows: pd.DataFrame, words: str) -> Chosen:
    settings = settings_in(words)
    if not settings:
        near = suggestion(words, sorted({words_of(str(point)) for point in rows["point"]}))
        raise UserError(
            f"no configuration '{words}': expected '{FULL}', the id of a trial, or settings such as max_crops=9{near}"
        )
    found = rows
    for knob, label in settings.items():
        column = f"requested_{knob}"
        if column not in rows:
            raise UserError(f"no knob '{knob}' in these trials{suggestion(knob, knobs_of(rows.columns))}")
        found = found[(rows.loc[found.index, column] == label).fillna(value=False)]
        if found.empty:
            known = sorted(map(str, rows[column].dropna().unique()))
            raise UserError(f"no finished trial has '{words}': for {knob}={label}{suggestion(label, known)}")
    return Chosen(rows=_kept(found, rows), words=words, knobs=tuple(settings))


def full_trials(rows: pd.DataFrame) -> Mapping[str, tuple[str, str]]:
    """Group of comparable trials -> the trial of the full model, and what is to be said of it; often nothing."""
    found: dict[str, tuple[str, str]] = {}
    for group, part in rows.groupby("group"):
        trial, remark = _full_of(part, knobs_of(str(name) for name in part.columns))
        if trial:
            found[str(group)] = trial, remark
    return found


def full_trial_of(rows: pd.DataFrame, trial: str) -> tuple[str, str] | None:
    """The full model for a trial: of its own group, else of one of the same model, task and split; None without one."""
    known, row = full_trials(rows), rows[rows["trial"] == trial].iloc[0]
    if str(row["group"]) in known:
        return known[str(row["group"])]
    alike = rows[(rows[list(OF_A_SET)].astype(str) == row[list(OF_A_SET)].astype(str)).all(axis=1)]
    return next((known[str(group)] for group in alike["group"] if str(group) in known), None)


def _full(rows: pd.DataFrame) -> Chosen:
    found = full_trials(rows)
    if not found:
        raise UserError("no trial is that of the full model: none sets no knob, and none has every knob at its largest")
    trials = [trial for trial, _ in found.values()]
    remarks = dict.fromkeys(remark for _, remark in found.values() if remark)
    return Chosen(rows=_kept(rows[rows["trial"].isin(trials)], rows), words=FULL, caveats=tuple(remarks))


def _full_of(part: pd.DataFrame, knobs: Sequence[str]) -> tuple[str, str]:
    requested = part[[f"requested_{knob}" for knob in knobs]]
    bare = part[requested.isna().all(axis=1)] if knobs else part
    if len(bare):
        return str(bare["trial"].iloc[0]), ""
    effects = part[[f"effect_{knob}" for knob in knobs]]
    as_trained = part[(effects.isin(WITHOUT_CHANGE) | effects.isna()).all(axis=1)]
    if len(as_trained):
        largest = _largest(as_trained, knobs)
        return str((largest if len(largest) else as_trained)["trial"].iloc[0]), ""
    largest = _largest(part, knobs)
    if len(largest) != 1:
        return "", ""
    row = largest.iloc[0]
    return str(row["trial"]), f"'{FULL}' is {words_of(str(row['point']))}: no trial runs the model without changes"


def _largest(part: pd.DataFrame, knobs: Sequence[str]) -> pd.DataFrame:
    values = part[[f"knob_{knob}" for knob in knobs]]
    return part[((values == values.max()) | values.isna()).all(axis=1)]


def _kept(part: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    part = part.reset_index(drop=True)
    part.attrs = rows.attrs
    return part


def name_of(row: pd.Series[Any]) -> str:
    """The settings of a trial as tables write them."""
    return named(row["point"])


def named(point: object) -> str:
    """The settings of a column ``point`` as tables write them."""
    return words_of(str(point)) or "as trained"
