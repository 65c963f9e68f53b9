"""How long reference answers are, and what a cap on output tokens would cut: from the references alone, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from vlmprof.errors import UserError
from vlmprof.records import Example

CAPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PER_MILLE = (500, 900, 990, 999)
ALLOWED_TO_CUT = 0.001
"""Share of samples that the recommended cap may cut."""
END = 1
"""The token that ends an answer counts against the cap too."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLengths:
    """The lengths of the reference answers of a task, one a sample, in ``unit``."""

    task: str
    split: str
    samples: int
    unit: str
    """``tokens``, the one that ends an answer included; ``words`` where there is no tokenizer."""
    mean: float
    percentiles: tuple[tuple[float, int], ...]
    """(percent, length)"""
    longest: int
    cut: tuple[tuple[int, float], ...]
    """(cap, share of samples whose answer is longer)"""
    recommended: int | None
    """The smallest of ``CAPS`` that cuts at most ``ALLOWED_TO_CUT``; None in words, and where none is large enough."""


def answers(
    task: str, split: str, examples: Sequence[Example], count: Callable[[str], int] | None = None
) -> AnswerLengths:
    """The distribution of answer lengths.

    A sample counts with the shortest of the references that the most people gave: a model that says this one is right,
    and longer ones need not fit.

    Args:
        task: Name of the task.
        split: Name of the split.
        examples: Its samples.
        count: Tokens of a text; None counts words.

    Raises:
        UserError: no sample has an answer.
    """
    references = [_reference(one.answers) for one in examples if one.answers]
    if not references:
        raise UserError(f"task '{task}' publishes no answers in '{split}'")
    lengths = np.array([len(text.split()) if count is None else count(text) + END for text in references])
    cut = tuple((cap, float((lengths > cap).mean())) for cap in CAPS)
    enough = next((cap for cap, share in cut if share <= ALLOWED_TO_CUT), None)
    ordered = np.sort(lengths)
    return AnswerLengths(
        task=task,
        split=split,
        samples=len(references),
        unit="words" if count is None else "tokens",
        mean=float(lengths.mean()),
        # The smallest length that covers the share: one that occurs. In whole numbers: 0.999 x 1000 is not 999.
        percentiles=tuple((mark / 10, int(ordered[-(-len(ordered) * mark // 1000) - 1])) for mark in PER_MILLE),
        longest=int(ordered[-1]),
        cut=cut,
        recommended=None if count is None else enough,
    )


def _reference(given: Sequence[str]) -> str:
    most = max(given.count(one) for one in given)
    return min((one for one in given if given.count(one) == most), key=lambda text: (len(text), text))
