"""Which trial of one run is compared with which of another: those of the same settings, model, task and split.

A folder may hold several trials of the same settings that differ in precision, device or timing: these are then part of
what must be equal. What has no partner, or more than one, is left out, counted and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import pandas as pd

from vlmprof.analyze.comparability import IDENTITY, KEYS
from vlmprof.analyze.configurations import Chosen, name_of
from vlmprof.errors import UserError
from vlmprof.store.schema import knobs_of

NAMED = 3
"""Trials without a partner that are spelt out."""
_Key = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """Trials in pairs: row ``i`` of one frame with row ``i`` of the other."""

    first: pd.DataFrame
    second: pd.DataFrame
    key: tuple[str, ...]
    """The columns that are equal in both."""
    caveats: tuple[str, ...]
    """What has no partner, with numbers."""


def matched(first: Chosen, second: Chosen, names: tuple[str, str]) -> Matched:
    """The trials of two selections in pairs, ordered by the values of the knobs.

    Args:
        first: Of one run.
        second: Of the other, or of the same.
        names: What the two are called in messages.

    Raises:
        UserError: no pair is left; the message says what both have.
    """
    by_model, said = _by_model(first.rows, second.rows, names)
    key = (*(("model",) if by_model else ()), "task", "split", *_settings(first, second))
    extra = _distinguishing((first.rows, second.rows), key)
    keys = [_keys(rows, (*key, *extra)) for rows in (first.rows, second.rows)]
    once = [{one for one, count in Counter(of).items() if count == 1} for of in keys]
    common = once[0] & once[1]
    caveats = [*said, *first.caveats, *second.caveats]
    for rows, of, name, other in zip((first.rows, second.rows), keys, names, reversed(names), strict=True):
        caveats += _unmatched(rows, [one in common for one in of], name, other)
    if not common:
        raise UserError(
            f"{names[0]} and {names[1]} have no configuration in common; name one of each: {'; '.join(caveats)}"
        )
    at = {one: i for i, one in enumerate(keys[1])}
    pairs = [(i, at[keys[0][i]]) for i in _in_order(first.rows) if keys[0][i] in common]
    return Matched(
        first=_rows(first.rows, [i for i, _ in pairs]),
        second=_rows(second.rows, [j for _, j in pairs]),
        key=(*key, *extra),
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _in_order(rows: pd.DataFrame) -> list[int]:
    """Positions by model, task and the values of the knobs."""
    axes = [f"knob_{knob}" for knob in knobs_of(str(name) for name in rows.columns)]
    ordered = rows.reset_index(drop=True).sort_values(["model", "task", "split", *axes, "trial"])
    return [int(i) for i in ordered.index]


def _by_model(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> tuple[bool, list[str]]:
    """Whether models are matched by their label: not where both have one and it is another."""
    of_first, of_second = (sorted(map(str, rows["model"].unique())) for rows in (first, second))
    if set(of_first) & set(of_second):
        return True, []
    if len(of_first) == len(of_second) == 1:
        return False, [f"two models are compared: {of_first[0]} in {names[0]}, {of_second[0]} in {names[1]}"]
    raise UserError(
        f"no model is in both: {names[0]} has {', '.join(of_first) or 'none'},"
        f" {names[1]} {', '.join(of_second) or 'none'}"
    )


def _settings(first: Chosen, second: Chosen) -> tuple[str, ...]:
    """The columns of settings that must be equal: those of knobs that are not named on either side."""
    both, chosen = (first.rows, second.rows), bool(first.words and second.words)
    if chosen and not any(rows.duplicated(["model", "task", "split"]).any() for rows in both):
        return ()  # each side is one configuration: these two are compared, whatever they set
    if not chosen:
        return ("point",)
    named = {*first.knobs, *second.knobs}
    knobs = sorted({knob for rows in both for knob in knobs_of(str(name) for name in rows.columns)} - named)
    return tuple(f"requested_{knob}" for knob in knobs)


def _distinguishing(both: Sequence[pd.DataFrame], key: Sequence[str]) -> tuple[str, ...]:
    """Columns by which trials of one key differ on either side."""
    found: dict[str, None] = {}
    for rows in both:
        keys = pd.Series(_keys(rows, key), index=rows.index)
        repeated = keys.duplicated(keep=False)
        for _, same in rows[repeated].groupby(keys[repeated]):
            if len(same) > 1:
                columns = [name for name in (*KEYS, *IDENTITY) if name in same and name not in key]
                found |= {name: None for name in columns if same[name].nunique(dropna=False) > 1}
    return tuple(found)


def _keys(rows: pd.DataFrame, columns: Sequence[str]) -> list[_Key]:
    texts = [rows[name].astype("string").fillna("").tolist() if name in rows else [""] * len(rows) for name in columns]
    return list(zip(*texts, strict=True)) if texts else [()] * len(rows)


def _unmatched(rows: pd.DataFrame, is_matched: Sequence[bool], name: str, other: str) -> Iterator[str]:
    alone = rows[[not one for one in is_matched]]
    if alone.empty:
        return
    named = [f"{row['trial']} ({name_of(row)})" for _, row in alone.head(NAMED).iterrows()]
    more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
    yield f"{len(alone)} of {len(rows)} trials of {name} have no partner in {other}: {', '.join(named)}{more}"


def _rows(rows: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    found = rows.iloc[list(positions)].reset_index(drop=True)
    found.attrs = dict(rows.attrs)
    return found
