"""Selectors of node labels, in Ray's syntax: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``."""

from __future__ import annotations

import re

Pairs = tuple[tuple[str, str], ...]
"""(label, value) or (label, selector)"""
_VALUE = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
SELECTOR = re.compile(rf"!?{_VALUE}|!?in\({_VALUE}(, ?{_VALUE})*\)")
"""Ray's own rule is in ``ray._private.label_utils``; a job is also checked on machines without Ray."""


def readable(pairs: Pairs) -> Pairs:
    """The same selectors, checked.

    Raises:
        ValueError: one is not in Ray's syntax.
    """
    for label, value in pairs:
        if not SELECTOR.fullmatch(value):
            raise ValueError(f"label '{label}': expected value, !value, in(a, b) or !in(a, b), got '{value}'")
    return pairs


def matches(value: str | None, selector: str) -> bool:
    """Whether the value of a label matches a selector; None, a node without the label, matches negated selectors."""
    negated, wanted = selector.startswith("!"), selector.removeprefix("!")
    listed = re.fullmatch(r"in\((.*)\)", wanted)
    allowed = [value.strip() for value in listed[1].split(",")] if listed else [wanted]
    return (value in allowed) != negated
