"""RealworldQA: the letter of an option, or a word or number, as each question demands.

The text of a question lists its options and asks for a letter, or asks for a single word or number; xAI published no
evaluator. If the reference is a letter, an answer is read as in ``metrics.multiple_choice``, with the options from the
question, so that ``(A)`` and ``A. Yes`` are the letter A. Any other answer must equal the reference after the
normalisation of VQA, as in Molmo's evaluation: ``three`` is 3. If it does not, it counts without the emphasis or quotes
around it (``**3**``). lmms-eval ignores only case and a final period there.
"""

from __future__ import annotations

import re

from vlmprof.errors import UserError
from vlmprof.metrics._emphasis import without_emphasis
from vlmprof.metrics._gold import LETTERS
from vlmprof.metrics._option_reading import letter_named
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.metrics.vqa import normalised
from vlmprof.records import Example

FEWEST_LETTERS = 4
"""Letters that an answer may name if the question lists no options."""
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)


def realworld_qa(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option, or is the right word or number, else 0.

    Raises:
        UserError: there are no answers.
    """
    if not example.answers:
        raise UserError(f"'{example.id}' has no reference answer; choose a split that publishes them")
    if not all(_is_letter(answer) for answer in example.answers):
        wanted = {_plain(answer) for answer in example.answers}
        return Verdict(score=float(bool({_plain(prediction), _plain(without_emphasis(prediction))} & wanted)))
    right = {answer.strip() for answer in example.answers}
    named = letter_named(prediction, options_in(example.question) or _letters_to(max(right)))
    return Verdict(score=float(named in right), parsed=named is not None)


def options_in(question: str) -> dict[str, str]:
    """Letter -> text of the options that a question lists, one a line; empty if they do not begin with A and B."""
    found = {match[1]: match[2] for match in _OPTION.finditer(question)}
    return found if len(found) > 1 and "".join(sorted(found)) == LETTERS[: len(found)] else {}


def _letters_to(last: str) -> dict[str, str]:
    return dict.fromkeys(LETTERS[: max(FEWEST_LETTERS, LETTERS.index(last) + 1)], "")


def _is_letter(answer: str) -> bool:
    return len(answer.strip()) == 1 and answer.strip() in LETTERS


def _plain(text: str) -> str:
    return normalised(text.replace("\n", " ").replace("\t", " ").lower().strip())


METRIC = Metric(name="realworld_qa", judge=realworld_qa, version=4)
