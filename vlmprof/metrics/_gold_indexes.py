"""Indexes among the reference answers of multiple-choice data: whether they are counted from 0 or from 1.

One row cannot tell: with four options, 1 is the first one counted from 1, and the second one counted from 0. A job may
state it (``index_from``); where it does not, they are counted from 0, and a file that seems counted from 1 is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vlmprof.errors import UserError, as_written
from vlmprof.metrics._gold import LETTERS, OptionLetter, is_index, own_labels

FEWEST_ROWS = 20
"""So many rows with an index and none that is 0 are no chance: with four options that happens in 3 of 1,000 files."""


def by_index(values: Sequence[Any], choices: Sequence[str], first: int) -> list[Any]:
    """The values with each index replaced by the letter of its option.

    Args:
        values: The values of a row, as ``listed`` gives them.
        choices: Its options.
        first: The number of the first option, 0 or 1.

    Raises:
        UserError: an index is beyond the options, or is also the text of another one.
    """
    return [_letter(value, choices, first) if is_index(value) else value for value in values]


def _letter(value: Any, choices: Sequence[str], first: int) -> OptionLetter:
    position = int(value) - first
    if not 0 <= position < len(choices):
        last = len(choices) - 1 + first
        raise UserError(
            f"the answer {as_written(value)} names no option; 'index_from' is {first}, so indexes of these"
            f" {len(choices)} options go from {first} to {last}"
        )
    otherwise = _named_otherwise(value, choices)
    if otherwise and LETTERS[position] not in otherwise:
        meanings = " and ".join(sorted({LETTERS[position], *otherwise}))
        raise UserError(
            f"the answer {as_written(value)} may mean the options {meanings}, as an index and by what stands in them;"
            " write the letter"
        )
    return OptionLetter(LETTERS[position])


def _named_otherwise(value: Any, choices: Sequence[str]) -> set[str]:
    """Letters of the options that have the number as their text, or as a label before it (``1. red``)."""
    texts = [choice.strip().rstrip(" .") for choice in choices]
    written = (texts, own_labels(choices))
    return {LETTERS[at] for found in written for at, text in enumerate(found) if text == str(int(value))}


def why_counted_from_one(rows: Iterable[tuple[Sequence[Any], Sequence[str]]]) -> str:
    """Why the indexes of a file seem to be counted from 1; empty where they do not.

    Args:
        rows: (values, options) of each row that has options.
    """
    found = [
        (int(value), len(choices))
        for values, choices in rows
        for value in values
        if is_index(value) and not _named_otherwise(value, choices)
    ]
    numbers, options = {number for number, _ in found}, max((count for _, count in found), default=0)
    if len(found) < FEWEST_ROWS or not numbers or numbers != set(range(1, max(numbers) + 1)):
        return ""
    return (
        f"the {len(found)} indexes among the answers of this file go from 1 to {max(numbers)}, with up to {options}"
        " options, and none is 0: they are probably counted from 1, and would be read as counted from 0. Say which it"
        " is, with 'index_from: 1' or 'index_from: 0' in the task, or write letters"
    )
