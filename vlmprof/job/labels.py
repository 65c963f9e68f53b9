"""Selectors of node labels, as Ray reads them: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``."""

from __future__ import annotations

import re

Pairs = tuple[tuple[str, str], ...]
"""Label and value, or label and selector."""
_VALUE = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
SELECTOR = re.compile(rf"!?{_VALUE}|!?in\({_VALUE}(, ?{_VALUE})*\)")
"""Ray's own rule is in ``ray._private.label_utils``; a job is checked where there may be no Ray."""


def readable(pairs: Pairs) -> Pairs:
    """The same selectors.

    Raises:
        ValueError: Ray could not read one.
    """
    for label, value in pairs:
        if not SELECTOR.fullmatch(value):
            raise ValueError(f"label '{label}': expected value, !value, in(a, b) or !in(a, b), got '{value}'")
    return pairs


def matches(value: str | None, selector: str) -> bool:
    """Whether the value of a label fits a selector. A node without the label fits what is negated."""
    negated, wanted = selector.startswith("!"), selector.removeprefix("!")
    listed = re.fullmatch(r"in\((.*)\)", wanted)
    allowed = [one.strip() for one in listed[1].split(",")] if listed else [wanted]
    return (value in allowed) != negated
