"""MMMU's official parsing of answers, without its dice.

Rules of ``mmmu/utils/eval_utils.py`` of MMMU-Benchmark/MMMU (Yue et al., MMMU, CVPR 2024), written anew: a long answer
may name an option in brackets, as a letter between blanks, or, where it has more than five words, by its text; the last
one named counts. An open answer is searched for its telling parts and for numbers, and is right when it contains the
reference. Where the official code draws an option at random because it can read none, this one gives 0 and says so.
One oddity is kept: sentences are told apart by a capital letter after they were put in small letters, so only line
breaks do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.metrics.multiple_choice import LETTERS
from vlmprof.records import Example

_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_TELLING = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
LONG = 5
"""More words than this, and an answer may name an option by its text."""


def mmmu(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option, or contains the right open answer.

    Raises:
        UserError: the example has no answer, as in the test split.
    """
    if not example.answers or example.answers == ("?",):
        raise UserError(f"'{example.id}' has no answer; the split 'test' publishes none, choose 'validation'")
    if not example.choices:
        return Verdict(score=float(_contains(_telling_parts(prediction), example.answers)))
    chosen = last_named(prediction, example.choices)
    return Verdict(score=float(chosen in example.answers), parsed=chosen is not None)


def last_named(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that is named last, or None."""
    text = prediction
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    letters = LETTERS[: len(choices)]
    by_text = dict(zip(letters, choices, strict=True))
    forms: list[tuple[str, Callable[[str], str]]] = [(text, "({})".format), (text, " {} ".format)]
    if len(text.split()) > LONG:
        forms.append((text.lower(), lambda letter: by_text[letter].lower()))
    for where, form in forms:
        places = {letter: where.rfind(form(letter)) for letter in letters}
        if max(places.values()) >= 0:
            return max(places, key=places.__getitem__)
    return None


def _telling_parts(answer: str) -> set[str | float]:
    """What of an open answer may be the answer: its telling parts, and the numbers in them."""
    sentences = re.split(r"\.\s(?=[A-Z])|\n", answer.strip().strip(".").lower())
    parts = []
    for index, sentence in enumerate(sentences):
        signs = (*_TELLING, "=") if index == len(sentences) - 1 else _TELLING
        shortest = _shortest_tail(sentence, signs)
        if shortest and shortest not in _STRIPPED:
            parts.append(shortest)
    parts = parts or [answer.strip().strip(".").lower()]
    numbers = [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    return {form for part in (*parts, *numbers) for form in _forms(part)}


def _shortest_tail(sentence: str, signs: Sequence[str]) -> str:
    """What follows a telling sign, the shortest there is; an empty one gives way to whatever comes next."""
    shortest = ""
    for sign in signs:
        tail = sentence.rsplit(sign, maxsplit=1)[-1].strip()
        if sign in sentence and (not shortest or len(tail) < len(shortest)):
            shortest = tail
    return shortest


def _forms(text: str) -> list[str | float]:
    """A number rounded to two places, or the text in small letters; one letter alone only beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _contains(given: set[str | float], answers: Sequence[str]) -> bool:
    wanted = [form for answer in answers for form in _forms(answer)]
    for part in given:
        if isinstance(part, float) and part in wanted:
            return True
        if isinstance(part, str) and any(isinstance(form, str) and form in part for form in wanted):
            return True
    return False


METRIC = Metric(name="mmmu", judge=mmmu)
