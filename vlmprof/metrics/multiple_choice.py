"""Multiple choice: the option that an answer names, without guessing.

An answer names an option if one of these rules applies, tried in this order:

1. It is the letter of an option, or begins with one that is followed by a bracket, period or colon: ``B``, ``b``,
   ``(B)``, ``B.``, ``B: the cat``.
2. It contains a phrase with a capital letter: ``answer is B``, ``answer: (B)``, ``option B``, ``choice B``.
3. It is the text of exactly one option, compared as in ``metrics.exact_match``.

Any other answer names no option: it scores 0 and is counted as unparsable. ``A dog`` is not option A.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmprof.errors import UserError
from vlmprof.metrics.exact_match import plain
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.records import Example

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER_ONLY = re.compile(r"\s*\(?([A-Za-z])\)?[.:)]?\s*")
_LEADING_LETTER = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[.:)])(?=\s|$)")
_PHRASE = re.compile(r"\b(?:[Aa]nswer(?:\s+is)?|[Oo]ption|[Cc]hoice)\s*:?\s*\(?([A-Z])\b")


def multiple_choice(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option, else 0; ``example.answers`` holds the letter of the right option.

    Raises:
        UserError: the example has no options, or no right option.
    """
    if not example.choices or not example.answers:
        raise UserError(f"'{example.id}' has no options or no right option; choose a split that publishes them")
    chosen = named_option(prediction, example.choices)
    return Verdict(score=float(chosen in example.answers), parsed=chosen is not None)


def named_option(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names, or None."""
    letters = LETTERS[: len(choices)]
    for letter in (_leading_letter(prediction), _phrase_letter(prediction)):
        if letter is not None and letter in letters:
            return letter
    texts = [plain(choice) for choice in choices]
    answer = plain(prediction)
    return letters[texts.index(answer)] if texts.count(answer) == 1 else None


def _leading_letter(text: str) -> str | None:
    match = _LETTER_ONLY.fullmatch(text) or _LEADING_LETTER.match(text)
    return next(letter for letter in match.groups() if letter).upper() if match else None


def _phrase_letter(text: str) -> str | None:
    letters = {match[1] for match in _PHRASE.finditer(text)}
    return letters.pop() if len(letters) == 1 else None


METRIC = Metric(name="multiple_choice", judge=multiple_choice)
