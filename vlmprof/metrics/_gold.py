"""Reference answers as users' files hold them, read as what they plainly mean, or refused with the reason.

A metric names the reader for its answers (``Metric.gold``). Each takes the values of a row, as ``listed`` gives them,
and its options, as ``options`` gives them, and returns the answers in the form that the metric compares with. What has
two meanings is refused: a perfect model must never score 0 because of how its data were written down.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from vlmprof.errors import UserError, as_written

Gold = Callable[[Sequence[Any], Sequence[str]], tuple[str, ...]]
"""(values, options) -> reference answers.

Raises ``UserError`` with the reason when a value has no meaning, or more than one.
"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
_LABEL = re.compile(r"\(?([A-Za-z]|\d{1,2})[.):]\s+\S")
"""A letter or number of its own that an option begins with."""
_IN_MAPPING = ("text", "answer", "answers")
"""Keys that hold the answers where a cell is a mapping: SQuAD's ``text``, VQA's ``answer``."""


@final
class OptionLetter(str):
    """The letter of an option that a number named, whose meaning is settled."""

    __slots__ = ()


def listed(value: Any) -> list[Any]:
    """The answers in a cell: one value, a list, a mapping that holds them, or a list of such mappings.

    Raises:
        UserError: there is none, one is empty, or the cell has another form.
    """
    if isinstance(value, str) and _is_list_text(value):
        raise UserError(
            f"the answer {as_written(value)} is a list written as text; write a JSON list, one item for each answer"
        )
    values = _unpacked(value) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    found = [item for one in values for item in (_unpacked(one) if isinstance(one, Mapping) else [one])]
    if not found:
        raise UserError("there is no answer; expected a text, a number or a list of them")
    for item in found:
        if isinstance(item, list):
            raise UserError(f"the answer {as_written(item)} is a list within a list; expected a text or a number")
        if item is None or (isinstance(item, float) and not math.isfinite(item)) or not str(item).strip():
            raise UserError(f"the answer {as_written(item)} is empty or no number; expected a text or a number")
    return found


def options(value: Any) -> tuple[str, ...]:
    """The options of a question, in order: a list, or a mapping from their letters (``{"A": "red", "B": "blue"}``).

    Raises:
        UserError: the cell has another form, an option is missing, or there are more options than letters.
    """
    if value is None or value in ([], {}):
        return ()
    values = _by_letter(value) if isinstance(value, Mapping) else value
    if not isinstance(values, list):
        raise UserError(f"the options are {as_written(value)}; expected a list of texts")
    wrong = next((item for item in values if _is_no_text(item)), "")
    if wrong != "":
        raise UserError(f"the option {as_written(wrong)} is no text; options are {as_written(value)}")
    if len(values) > len(LETTERS):
        raise UserError(f"there are {len(values)} options; at most {len(LETTERS)} can be named by a letter")
    found = tuple(_text(item) for item in values)
    own = own_labels(found)
    if own and all(map(_is_letter, own)) and "".join(own) != LETTERS[: len(own)]:
        raise UserError(
            f"the options {as_written(value)} have letters of their own, in another order than A, B, ...; give them in"
            " that order, or without letters"
        )
    return found


def texts(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    """Answers that are compared as texts; if there are options, their letters, which the prompt asks for.

    A number without a fraction is written as an integer: ``3.0`` is ``3``.

    Raises:
        UserError: an answer is true or false, which may mean yes or true.
    """
    if choices:
        return option_letters(values, choices)
    truth = next((value for value in values if isinstance(value, bool)), None)
    if truth is not None:
        text = "'yes' or 'true'" if truth else "'no' or 'false'"
        raise UserError(f"the answer is {str(truth).lower()}, a truth value; write the text that is expected, {text}")
    return tuple(_text(value) for value in values)


def option_letters(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    """The letters of the right options. A value is a letter, the text of an option, or an index, counted from 0.

    Raises:
        UserError: there are no options, or a value names none or several.
    """
    if not choices:
        raise UserError("there are no options; name them in 'choices', or choose another metric")
    return tuple(_option_letter(value, choices) for value in values)


def numbers(values: Sequence[Any], choices: Sequence[str], number_of: Callable[[str], int | None]) -> tuple[str, ...]:
    """Counts, as decimal digits.

    Args:
        values: The values of the row.
        choices: Its options.
        number_of: Text -> the count that it means, or None.

    Raises:
        UserError: a value is no count, or there are options.
    """
    _refuse_options(choices, "a number")
    counts = [None if isinstance(value, bool) else number_of(_text(value)) for value in values]
    wrong = next((value for value, count in zip(values, counts, strict=True) if count is None), None)
    if wrong is not None:
        raise UserError(
            f"the answer {as_written(wrong)} is no count; expected a whole number from 0, such as 3 or 'three'"
        )
    return tuple(str(count) for count in counts)


def yes_or_no(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    """``yes`` or ``no``; also read from true, false, 1 and 0, in any case, with any final punctuation.

    Raises:
        UserError: a value means neither, two values disagree, or there are options.
    """
    _refuse_options(choices, "yes or no")
    meanings = {_truth(value) for value in values}
    if None in meanings or len(meanings) != 1:
        raise UserError(f"the answers {as_written(values)} do not mean yes or no; expected 'yes' or 'no'")
    return ("yes" if meanings.pop() else "no",)


def names_labels(choices: Sequence[str]) -> bool:
    """Whether the options are labels in the picture: all of them, or all but one, are single letters.

    Then ``D`` would mean the option with the text D or the fourth option. So such options are asked without letters of
    their own, and an answer means the text of an option. Molmo was trained and evaluated like this on AI2D.
    """
    labels = [choice.strip().upper() for choice in choices if _is_letter(choice.strip())]
    return len(labels) >= max(2, len(choices) - 1) and len(set(labels)) == len(labels)


def is_index(value: Any) -> bool:
    """Whether a value is a whole number from 0, also written as text or with a fraction of 0."""
    text = _text(value)
    return not isinstance(value, bool) and text.isdecimal() and text.isascii()


def _option_letter(value: Any, choices: Sequence[str]) -> str:
    if isinstance(value, OptionLetter):
        return str(value)
    letters, text = LETTERS[: len(choices)], _text(value)
    plain = [" ".join(choice.lower().split()).rstrip(" .") for choice in choices]
    by_text = {letters[i] for i, choice in enumerate(plain) if choice == " ".join(text.lower().split()).rstrip(" .")}
    bare = text.strip("()[]. :").upper()
    by_letter = {bare} if len(bare) == 1 and bare in letters else set()
    by_index = {letters[int(text)]} if is_index(value) and int(text) < len(letters) else set()
    by_label = {letters[i] for i, label in enumerate(own_labels(choices)) if label == bare}
    meant = by_text | by_letter | by_index | by_label
    if isinstance(value, bool):
        meant = by_text
    if len(meant) == 1:
        return meant.pop()
    how = "names no option" if not meant else f"may mean the options {' and '.join(sorted(meant))}"
    expected = f"a letter from A to {letters[-1]}, the text of an option, or its index, counted from 0"
    shown = ", ".join(f"{letter}: {choice}" for letter, choice in zip(letters, choices, strict=True))
    beyond = is_index(value) and int(text) == len(letters) and not meant
    counted = "; if indexes are counted from 1, say 'index_from: 1' in the task" if beyond else ""
    raise UserError(f"the answer {as_written(value)} {how}; expected {expected} (options: {shown}){counted}")


def _is_no_text(item: Any) -> bool:
    return item is None or isinstance(item, (list, Mapping)) or (isinstance(item, float) and math.isnan(item))


def own_labels(choices: Sequence[str]) -> list[str]:
    """The letters or numbers that options begin with, in capitals (``1. red``, ``(a) red``); empty if not all do."""
    labels = [match[1].upper() for choice in choices if (match := _LABEL.match(choice))]
    return labels if len(labels) == len(choices) == len(set(labels)) and len(labels) > 1 else []


def _truth(value: Any) -> bool | None:
    text = _text(value).strip(" .!").lower()
    if text in YES or (text == "1" and not isinstance(value, str)):
        return True
    return False if text in NO or (text == "0" and not isinstance(value, str)) else None


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _unpacked(mapping: Mapping[str, Any]) -> list[Any]:
    keys = [key for key in _IN_MAPPING if key in mapping]
    if len(keys) != 1:
        raise UserError(f"the answer {as_written(mapping)} is a mapping; expected a text, a number or a list of them")
    found = mapping[keys[0]]
    return found if isinstance(found, list) else [found]


def _by_letter(mapping: Mapping[str, Any]) -> list[Any]:
    labels, texts_of = mapping.get("label"), mapping.get("text")
    if isinstance(labels, list) and isinstance(texts_of, list) and len(labels) == len(texts_of):
        mapping = dict(zip(map(str, labels), texts_of, strict=True))
    by_letter = {str(key).strip("(). ").upper(): value for key, value in mapping.items()}
    while by_letter and by_letter[max(by_letter)] is None:  # Parquet fills the letters that a question does not use
        del by_letter[max(by_letter)]
    if len(by_letter) < 2 or "".join(sorted(by_letter)) != LETTERS[: len(by_letter)]:
        raise UserError(f"the options are {as_written(mapping)}; expected a list, or a mapping with the keys A, B, ...")
    return [by_letter[letter] for letter in sorted(by_letter)]


def _refuse_options(choices: Sequence[str], expected: str) -> None:
    if choices:
        raise UserError(f"the metric expects {expected}, but the row has options; use the metric 'multiple_choice'")


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text.isalpha()


def _is_list_text(text: str) -> bool:
    if not (text.strip().startswith("[") and text.strip().endswith("]")):
        return False
    try:
        return isinstance(ast.literal_eval(text.strip()), list)
    except (ValueError, SyntaxError):
        return False
