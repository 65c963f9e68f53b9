"""MMMU's official parsing of answers, without its random guess for answers that cannot be parsed.

The rules of ``mmmu/utils/eval_utils.py`` of MMMU-Benchmark/MMMU (Yue et al., MMMU, CVPR 2024), reimplemented: a free
answer may name an option in brackets, as a letter between spaces, or, if it has more than five words, by its text; the
last option named counts. An open answer is searched for key phrases and for numbers, and is right when it contains the
reference. When the official code cannot parse an answer, it draws an option at random; this code reads the answer as
``metrics.multiple_choice`` does (``B. dog``, ``**B**``), and if it names no option, scores 0 and counts the answer as
unparsable. An open answer that equals the reference is always right. One oddity of the original is kept: it splits
sentences at a capital letter, but only after lower-casing the text, so that in effect only line breaks split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from vlmprof.errors import UserError
from vlmprof.metrics._gold import LETTERS, option_letters, texts
from vlmprof.metrics._option_reading import letter_named
from vlmprof.metrics.exact_match import plain
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.records import Example

_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
LONG_ANSWER_WORDS = 5
"""An answer with more words than this may name an option by its text."""


def mmmu(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option, or contains the right open answer, else 0.

    Raises:
        UserError: the example has no answer, as in the test split.
    """
    if not example.answers or example.answers == ("?",):
        raise UserError(f"'{example.id}' has no answer; the split 'test' publishes none, choose 'validation'")
    if not example.choices:
        equal = plain(prediction) in map(plain, example.answers)
        return Verdict(score=float(equal or _contains(_candidates(prediction), example.answers)))
    positions = dict(zip(LETTERS, example.choices, strict=False))
    chosen = last_named(prediction, example.choices) or letter_named(prediction, positions)
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
    if len(text.split()) > LONG_ANSWER_WORDS:
        forms.append((text.lower(), lambda letter: by_text[letter].lower()))
    for searched, form in forms:
        positions = {letter: searched.rfind(form(letter)) for letter in letters}
        if max(positions.values()) >= 0:
            return max(positions, key=positions.__getitem__)
    return None


def _candidates(answer: str) -> set[str | float]:
    """The parts of an open answer that are compared with the reference: key phrases, and the numbers in them."""
    sentences = re.split(r"\.\s(?=[A-Z])|\n", answer.strip().strip(".").lower())
    parts = []
    for index, sentence in enumerate(sentences):
        indicators = (*_INDICATORS, "=") if index == len(sentences) - 1 else _INDICATORS
        shortest = _shortest_tail(sentence, indicators)
        if shortest and shortest not in _STRIPPED:
            parts.append(shortest)
    parts = parts or [answer.strip().strip(".").lower()]
    numbers = [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    return {form for part in (*parts, *numbers) for form in _forms(part)}


def _shortest_tail(sentence: str, indicators: Sequence[str]) -> str:
    """The shortest text that follows an indicator; an empty text is replaced by the next one."""
    shortest = ""
    for indicator in indicators:
        tail = sentence.rsplit(indicator, maxsplit=1)[-1].strip()
        if indicator in sentence and (not shortest or len(tail) < len(shortest)):
            shortest = tail
    return shortest


def _forms(text: str) -> list[str | float]:
    """A number rounded to two decimals, or the text in lower case; a single letter only next to a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _contains(candidates: set[str | float], answers: Sequence[str]) -> bool:
    references = [form for answer in answers for form in _forms(answer)]
    for candidate in candidates:
        if isinstance(candidate, float) and candidate in references:
            return True
        if isinstance(candidate, str) and any(isinstance(form, str) and form in candidate for form in references):
            return True
    return False


def _gold(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    return option_letters(values, choices) if choices else texts(values, choices)


METRIC = Metric(name="mmmu", judge=mmmu, version=4, gold=_gold)
