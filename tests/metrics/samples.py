"""Examples for tests of metrics: no picture is ever loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmprof.records import Example, Picture


def never() -> Any:
    raise AssertionError("a metric looks at no picture")


def asked(answers: Sequence[str], choices: Sequence[str] = (), name: str = "q1", cluster: str = "") -> Example:
    return Example(
        id=name,
        question="?",
        question_type="",
        answers=tuple(answers),
        choices=tuple(choices),
        picture=Picture(width=1, height=1, load=never),
        cluster=cluster or name,
    )
