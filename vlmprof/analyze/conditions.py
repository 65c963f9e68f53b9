"""Conditions on columns, as users write them: ``latency_ms_inputs_p95 < 200 ms and peak_bytes < 24 GB``.

A small language that is parsed and never evaluated by Python::

    condition  = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | "(" condition ")" | comparison
    comparison = column ("<" | "<=" | ">" | ">=" | "==" | "!=") number [unit]

A number may have a sign, decimals and an exponent (``24e9``). A unit is converted to that of the column, which its
Arrow field names; ``k``, ``M``, ``G`` and ``T`` are thousands to trillions of it. ``%`` is a hundredth, for columns
that are fractions. Where the values are differences (``differences=True``), ``+3%`` and ``-3%`` are relative
differences, of any column, and a number without a percent sign is a difference in the unit of the column.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Any, Literal, NoReturn, TypeAlias, cast, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.errors import UserError, nearest, suggestion

Operator = Literal["<", "<=", ">", ">=", "==", "!="]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
LONGEST, DEEPEST = 1000, 20
"""Characters of a condition, and how deep parentheses and ``not`` may be nested."""

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_OPPOSITE: Mapping[Operator, Operator] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_BYTES = {
    "B": "1",
    **{f"{prefix}B": f"1e{3 * i}" for i, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": str(1024**i) for i, prefix in enumerate("KMGT", 1)},
}
_UNITS: Mapping[str, Mapping[str, str]] = {
    "ms": {"us": "1e-3", "ms": "1", "s": "1e3", "min": "6e4"},
    "s": {"us": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600"},
    "bytes": _BYTES,
    "bytes/s": {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    "J": {"mJ": "1e-3", "J": "1", "kJ": "1e3"},
    "FLOP": {"FLOP": "1", **{f"{prefix}FLOP": f"1e{3 * i}" for i, prefix in enumerate("kMGTP", 1)}},
    "MHz": {"MHz": "1", "GHz": "1e3"},
    "fraction": {"%": "1e-2"},
    "probability": {"%": "1e-2"},
}
"""Unit of a column -> what may be written after a number -> by what the number is multiplied."""
_MULTIPLES = {"k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[^\W\d]\w*(?:/\w+)?|%)|(?P<sign><=|>=|==|!=|&&|\|\||[<>()=!]))"
)
_MEANT = {"=": "==", "&&": "and", "||": "or", "!": "not"}
_KEYWORDS = ("and", "or", "not")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A column bounded by a number, or compared with it in another way."""

    column: str
    operator: Operator
    value: float
    """In the unit of the column; in percent where ``relative``."""
    relative: bool = False
    """Whether relative differences are compared."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """Two or more conditions, all of which must hold."""

    parts: tuple[Condition, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """Two or more conditions, one of which must hold."""

    parts: tuple[Condition, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """A condition that must not hold."""

    part: Condition


Condition: TypeAlias = Bound | AllOf | AnyOf | Not


def parse(text: str, schema: pa.Schema, *, differences: bool = False, source: str = "condition") -> Condition:
    """The condition that a text says.

    Args:
        text: at most ``LONGEST`` characters.
        schema: columns that may be named; their fields' metadata have the units, as ``store.schema`` writes them.
        differences: whether differences of columns are compared; only then is ``+3%`` a relative difference.
        source: where the text comes from, such as ``--where``, for messages.

    Raises:
        UserError: it is no condition; the message has the position, what was expected, and the nearest column.
    """
    if len(text) > LONGEST:
        raise UserError(f"{source}: expected at most {LONGEST} characters, got {len(text):,}")
    parser = _Parser(text=text, schema=schema, differences=differences, source=source)
    found = parser.condition(0)
    if parser.here.kind != "end":
        parser.fail("'and', 'or' or the end")
    return found


def text_of(condition: Condition) -> str:
    """The condition as text; ``parse`` gives the same condition from it."""
    if isinstance(condition, Bound):
        number = repr(condition.value).removesuffix(".0")
        signed = f"+{number}" if condition.relative and not number.startswith("-") else number
        return f"{condition.column} {condition.operator} {signed}{'%' if condition.relative else ''}"
    if isinstance(condition, Not):
        return f"not {_within(condition.part, (AllOf, AnyOf))}"
    if isinstance(condition, AllOf):
        return " and ".join(_within(part, (AllOf, AnyOf)) for part in condition.parts)
    return " or ".join(_within(part, (AnyOf,)) for part in condition.parts)


def _within(part: Condition, parenthesised: tuple[type, ...]) -> str:
    return f"({text_of(part)})" if isinstance(part, parenthesised) else text_of(part)


def comparisons(condition: Condition) -> Iterator[Bound]:
    """All comparisons of a condition, in the order in which they are written."""
    if isinstance(condition, Bound):
        yield condition
    elif isinstance(condition, Not):
        yield from comparisons(condition.part)
    else:
        for part in condition.parts:
            yield from comparisons(part)


def columns_of(condition: Condition) -> tuple[str, ...]:
    """The columns that a condition names, each once."""
    return tuple(dict.fromkeys(one.column for one in comparisons(condition)))


def holds(condition: Condition, values: Callable[[Bound], Numbers]) -> Mask:
    """Where the condition holds.

    Args:
        condition: as ``parse`` gives it.
        values: the values that a comparison is about, of one shape for all: of its column, or its differences, in
            percent where the comparison is relative. All finite: whoever lacks a value must leave it out and say so.

    Raises:
        ValueError: a value that is not finite.
    """
    if isinstance(condition, Bound):
        found = np.asarray(values(condition), dtype=np.float64)
        if not np.isfinite(found).all():
            raise ValueError(f"expected finite values of {condition.column}")
        return np.asarray(_COMPARE[condition.operator](found, condition.value))
    if isinstance(condition, Not):
        return ~holds(condition.part, values)
    parts = [holds(part, values) for part in condition.parts]
    return np.asarray(np.all(parts, axis=0) if isinstance(condition, AllOf) else np.any(parts, axis=0))


def shortfall(condition: Condition, values: Callable[[Bound], Numbers]) -> Numbers:
    """By how much the condition is missed, as a share of its numbers; 0 where it holds or is met exactly.

    Of conditions that must all hold the largest, of those of which one must hold the least. A number that is 0 counts
    as 1. ``!=`` that does not hold is missed by 0: there is no distance to it.

    Args:
        condition: as ``parse`` gives it.
        values: as of ``holds``.
    """
    if isinstance(condition, Bound):
        found = np.asarray(values(condition), dtype=np.float64)
        with np.errstate(over="ignore"):
            missed = np.abs(found - condition.value) / (abs(condition.value) or 1.0)
        return np.where(holds(condition, values), 0.0, missed)
    if isinstance(condition, Not):
        return shortfall(_negated(condition.part), values)
    parts = [shortfall(part, values) for part in condition.parts]
    return np.asarray(np.max(parts, axis=0) if isinstance(condition, AllOf) else np.min(parts, axis=0))


def without_not(condition: Condition) -> Condition:
    """The same condition without any ``Not``: comparisons are turned instead."""
    if isinstance(condition, Not):
        return without_not(_negated(condition.part))
    if isinstance(condition, Bound):
        return condition
    parts = tuple(without_not(part) for part in condition.parts)
    return AllOf(parts=parts) if isinstance(condition, AllOf) else AnyOf(parts=parts)


def _negated(condition: Condition) -> Condition:
    """The opposite without a ``Not`` around it, by De Morgan's laws."""
    if isinstance(condition, Bound):
        opposite = _OPPOSITE[condition.operator]
        return Bound(column=condition.column, operator=opposite, value=condition.value, relative=condition.relative)
    if isinstance(condition, Not):
        return condition.part
    parts = tuple(_negated(part) for part in condition.parts)
    return AnyOf(parts=parts) if isinstance(condition, AllOf) else AllOf(parts=parts)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    """``number``, ``word``, ``sign`` or ``end``."""
    text: str
    position: int
    """Of its first character, from 1."""


@final
class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, *, text: str, schema: pa.Schema, differences: bool, source: str) -> None:
        self._schema, self._differences, self._source = schema, differences, source
        self._tokens = self._split(text)
        self._at = 0

    @property
    def here(self) -> _Token:
        return self._tokens[self._at]

    def condition(self, depth: int) -> Condition:
        parts = self._joined("or", self._all, depth)
        return parts[0] if len(parts) == 1 else AnyOf(parts=parts)

    def _all(self, depth: int) -> Condition:
        parts = self._joined("and", self._one, depth)
        return parts[0] if len(parts) == 1 else AllOf(parts=parts)

    def _joined(self, word: str, part: Callable[[int], Condition], depth: int) -> tuple[Condition, ...]:
        parts = [part(depth)]
        while self._take(word):
            parts.append(part(depth))
        return tuple(parts)

    def _one(self, depth: int) -> Condition:
        if depth > DEEPEST:
            self._refuse(self.here, f"nested deeper than {DEEPEST}: write it flatter")
        if self._take("not"):
            return Not(part=self._one(depth + 1))
        if not self._take("("):
            return self._comparison()
        found = self.condition(depth + 1)
        if not self._take(")"):
            self.fail("')'")
        return found

    def _comparison(self) -> Bound:
        field = self._column()
        if self.here.text not in _COMPARE:
            self.fail("one of < <= > >= == !=")
        sign = cast(Operator, self._next().text)
        if self.here.kind != "number":
            self.fail("a number")
        value, relative = self._number(field)
        return Bound(column=field.name, operator=sign, value=value, relative=relative)

    def _column(self) -> pa.Field:
        token = self.here
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            self.fail("a column")
        if token.text not in self._schema.names:
            self._refuse(token, f"no column named '{token.text}'{suggestion(token.text, self._comparable())}")
        field = self._schema.field(token.text)
        if not _is_number(field.type):
            known = suggestion(token.text, self._comparable())
            self._refuse(token, f"'{token.text}' is not a column of numbers{known}")
        return self._next() and field

    def _comparable(self) -> Sequence[str]:
        return [field.name for field in self._schema if _is_number(field.type)]

    def _number(self, field: pa.Field) -> tuple[float, bool]:
        token = self._next()
        word = self.here.text if self.here.kind == "word" and self.here.text.lower() not in _KEYWORDS else ""
        signed = token.text[0] in "+-"
        if word == "%" and (self._differences or signed):
            self._require_relative(signed=signed)
            self._next()
            return self._converted(token, "1"), True
        factor = self._factor(word, _unit(field), field.name) if word else "1"
        if word:
            self._next()
        return self._converted(token, factor), False

    def _require_relative(self, *, signed: bool) -> None:
        if self._differences and not signed:
            self._refuse(self.here, "a relative difference has a sign, such as +3%; write 0.03 for a difference")
        if not self._differences:
            self._refuse(self.here, "a percent with a sign is a relative difference, and here values are compared")

    def _factor(self, word: str, unit: str, column: str) -> str:
        known = {**_MULTIPLES, **_UNITS.get(unit, {unit: "1"} if unit else {})}
        if word not in known:
            near = nearest(word, list(known))
            hint = f"; did you mean '{near}'?" if near else ""
            of = f"in {unit}" if unit else "without a unit"
            self._refuse(self.here, f"'{word}' is no unit of {column}, which is {of}{hint} ({', '.join(known)})")
        return known[word]

    def _converted(self, token: _Token, factor: str) -> float:
        try:
            value = float(Decimal(token.text) * Decimal(factor))
        except (DecimalException, OverflowError):
            value = math.inf
        if not math.isfinite(value):
            self._refuse(token, "the number is too large")
        return value

    def _take(self, text: str) -> bool:
        found = self.here.kind in ("word", "sign") and self.here.text.lower() == text
        self._at += found
        return found

    def _next(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def fail(self, expected: str) -> NoReturn:
        """Say what was expected here, and what is there."""
        token = self.here
        got = f"'{token.text}'" if token.text else "the end"
        meant = f"; did you mean '{_MEANT[token.text]}'?" if token.text in _MEANT else ""
        self._refuse(token, f"expected {expected}, got {got}{meant}")

    def _refuse(self, token: _Token, problem: str) -> NoReturn:
        raise UserError(f"{self._source}, character {token.position}: {problem}")

    def _split(self, text: str) -> list[_Token]:
        tokens, at, text = [], 0, text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                problem = f"expected a column, a number or a comparison, got '{text[start]}'"
                raise UserError(f"{self._source}, character {start + 1}: {problem}")
            group = found.lastgroup
            tokens.append(_Token(kind=group, text=found[group], position=found.start(group) + 1))
            at = found.end()
        return [*tokens, _Token(kind="end", text="", position=len(text) + 1)]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _unit(field: pa.Field) -> str:
    unit: bytes = (field.metadata or {}).get(b"unit", b"")
    return unit.decode()
