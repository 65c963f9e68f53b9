"""Multiple choice: which option does the answer name? Nothing is guessed.

An answer names an option when, in this order,

1. it is a letter of the options alone, or begins with one that a bracket, period or colon sets off: ``B``, ``b``,
   ``(B)``, ``B.``, ``B: the cat``;
2. it says so: ``answer is B``, ``answer: (B)``, ``option B``, ``choice B``, the letter a capital one;
3. it is the text of exactly one option, as ``metrics.exact_match`` compares.

Any other answer names none: it scores 0 and is counted as unparsable. ``A dog`` is not option A.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmprof.errors import UserError
from vlmprof.metrics.exact_match import plain
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.records import Example

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALONE = re.compile(r"\s*\(?([A-Za-z])\)?[.:)]?\s*")
_SET_OFF = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[.:)])(?=\s|$)")
_SAID = re.compile(r"\b(?:[Aa]nswer(?:\s+is)?|[Oo]ption|[Cc]hoice)\s*:?\s*\(?([A-Z])\b")


def multiple_choice(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option; ``example.answers`` holds its letter.

    Raises:
        UserError: the example has no options, or no right one.
    """
    if not example.choices or not example.answers:
        raise UserError(f"'{example.id}' has no options or no right one; choose a split that publishes them")
    chosen = named_option(prediction, example.choices)
    return Verdict(score=float(chosen in example.answers), parsed=chosen is not None)


def named_option(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names, or None."""
    letters = LETTERS[: len(choices)]
    for letter in (_alone(prediction), _said(prediction)):
        if letter is not None and letter in letters:
            return letter
    texts = [plain(choice) for choice in choices]
    given = plain(prediction)
    return letters[texts.index(given)] if texts.count(given) == 1 else None


def _alone(text: str) -> str | None:
    found = _ALONE.fullmatch(text) or _SET_OFF.match(text)
    return next(letter for letter in found.groups() if letter).upper() if found else None


def _said(text: str) -> str | None:
    found = {match[1] for match in _SAID.finditer(text)}
    return found.pop() if len(found) == 1 else None


METRIC = Metric(name="multiple_choice", judge=multiple_choice)
