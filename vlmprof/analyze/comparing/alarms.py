"""Alarms for continuous integration: is a condition on changes surely true in some pair of configurations?

A comparison such as ``latency_ms_p50 > +3%`` is surely true of a pair where the one-sided bound of the change is beyond
the number, surely false where the other bound is not, and open otherwise; ``and``, ``or`` and ``not`` join these as in
Kleene's logic of three values. The chance of each bound is 5 % divided by the number of all comparisons in all pairs
(Bonferroni). So if nothing is truly beyond the numbers, at most 5 % of whole comparisons raise an alarm, however many
configurations are looked at, as far as errors are what they are said to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.comparing.changes import Change
from vlmprof.analyze.conditions import AllOf, Bound, Condition, Not, comparisons, parse, text_of
from vlmprof.errors import UserError

Mask = NDArray[np.bool_]
FAMILY = 0.05
"""Chance that any statement of a whole comparison is wrong."""
OPTION = "--fail-if"
_BELOW = ("<", "<=")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alarm:
    """What a condition says of each pair of configurations."""

    text: str
    surely: Mask
    """(pairs,): where it is surely true."""
    surely_not: Mask
    """(pairs,): where it is surely false; neither is open."""
    statements: int
    """Comparisons in all pairs, for all of which together the chance of an error is at most 5 %."""
    caveats: tuple[str, ...]
    """Pairs in which something could not be tested."""

    @property
    def is_raised(self) -> bool:
        """Whether it is surely true of any pair."""
        return bool(self.surely.any())


def parse_alarm(text: str, schema: pa.Schema) -> Condition:
    """The condition on changes that a text says.

    Raises:
        UserError: it is none, or compares by ``==`` or ``!=``, which no measured change surely is.
    """
    condition = parse(text, schema, differences=True, source=OPTION)
    for one in comparisons(condition):
        if one.operator in ("==", "!="):
            raise UserError(f"{OPTION}: {text_of(one)}: a measured change is never surely equal; use < or >")
        if one.relative and one.value <= -100:
            raise UserError(f"{OPTION}: {text_of(one)}: expected more than -100 %")
    return condition


def raised(condition: Condition, changes: Mapping[str, Change]) -> Alarm:
    """What the condition says of every pair.

    Args:
        condition: As ``parse_alarm`` gives it.
        changes: Of each of its columns that any pair has.

    Raises:
        UserError: a column that no pair has, or whose error is not known; a number of the wrong kind.
    """
    terms = list(comparisons(condition))
    for one in terms:
        _require(one, changes)
    tested = [np.isfinite(changes[one.column].readings[0].value) for one in terms]
    statements = int(sum(of.sum() for of in tested))
    chance = FAMILY / statements

    def judged(one: Bound) -> tuple[Mask, Mask]:
        return _judged(one, changes[one.column], chance)

    surely, surely_not = _joined(condition, judged)
    return Alarm(
        text=text_of(condition),
        surely=surely,
        surely_not=surely_not,
        statements=statements,
        caveats=tuple(
            f"{text_of(one)} is not tested in {int((~of).sum())} of {len(of)} pairs: they are not compared in it"
            for one, of in zip(terms, tested, strict=True)
            if not of.all()
        ),
    )


def _require(one: Bound, changes: Mapping[str, Change]) -> None:
    change = changes.get(one.column)
    if change is None or not np.isfinite(change.readings[0].value).any():
        raise UserError(f"{OPTION}: {text_of(one)} cannot be tested: no pair of trials is compared in {one.column}")
    if not change.has_error:
        raise UserError(
            f"{OPTION}: {text_of(one)} cannot be tested: {one.column} has no interval, so how far it differs by chance"
            " is not known"
        )
    if change.by_ratio and not one.relative:
        raise UserError(f"{OPTION}: {one.column} is compared as a ratio: write a percentage with a sign, such as +3%")
    if one.relative and not change.by_ratio:
        raise UserError(f"{OPTION}: {one.column} is compared as a difference: write one, such as -0.01 for a point")


def _judged(one: Bound, change: Change, chance: float) -> tuple[Mask, Mask]:
    """Where a comparison is surely true, and where it is surely false: in all readings of the change."""
    limit = math.log1p(one.value / 100) if one.relative else one.value
    true, false = [], []
    for reading in change.readings:
        low, high = reading.bounds(chance)
        below, above = high < limit, low > limit
        lacking = np.isnan(reading.value) & np.isfinite(change.estimates.value)
        true.append((below if one.operator in _BELOW else above) | lacking)
        false.append((above if one.operator in _BELOW else below) | lacking)
    return np.all(true, axis=0), np.all(false, axis=0)


def _joined(condition: Condition, judged: Callable[[Bound], tuple[Mask, Mask]]) -> tuple[Mask, Mask]:
    if isinstance(condition, Bound):
        return judged(condition)
    if isinstance(condition, Not):
        surely, surely_not = _joined(condition.part, judged)
        return surely_not, surely
    parts = [_joined(part, judged) for part in condition.parts]
    true, false = np.array([one for one, _ in parts]), np.array([one for _, one in parts])
    if isinstance(condition, AllOf):
        return np.asarray(true.all(axis=0)), np.asarray(false.any(axis=0))
    return np.asarray(true.any(axis=0)), np.asarray(false.all(axis=0))


def reasons(alarm: Alarm, condition: Condition, changes: Mapping[str, Change], pair: int) -> Iterator[str]:
    """What is surely so in one pair, each comparison with its change and the bound that it rests on."""
    chance = FAMILY / alarm.statements
    for one in comparisons(condition):
        change = changes[one.column]
        surely, surely_not = (of[pair] for of in _judged(one, change, chance))
        if not (surely or surely_not):
            continue
        below = (one.operator in _BELOW) == bool(surely)
        ends = [reading.bounds(chance)[1 if below else 0][pair] for reading in change.readings]
        bound = np.nanmax(ends) if below else np.nanmin(ends)
        yield (
            f"{one.column} {in_words(change, change.estimates.value[pair])},"
            f" surely {'below' if below else 'above'} {in_words(change, float(bound))}"
        )


def in_words(change: Change, value: float) -> str:
    """A change as people write it: ``+3.1 %`` of a ratio, ``-0.0120`` of a difference."""
    return f"{100 * math.expm1(value):+.1f} %" if change.by_ratio else f"{value:+.4f}"
