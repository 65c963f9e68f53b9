"""Counting: the answer must be the right number, in digits or as a word.

TallyQA (Acharya, Kafle and Kanan, AAAI 2019) reports the share of questions whose count is exactly right. An answer is
a number if only a number remains after case, articles, punctuation and number words are normalised as in the official
VQA accuracy; words go up to twenty, where VQA's end at ten. "2", "two", "**Two**." and "2.0" are 2; "about 2 dogs",
"-2", "2.5" and "1,2" are not counts: they score 0 and are counted as unparsable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlmprof.metrics._emphasis import without_emphasis
from vlmprof.metrics._gold import numbers
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.metrics.vqa import normalised
from vlmprof.records import Example

_SIGN = re.compile(r"[-\u2013\u2212]\d")
"""A negative number; the normalisation would drop the sign."""
_NO_FRACTION = re.compile(r"\.0+$")
_NO_THOUSANDS = re.compile(r"\d,(?!\d{3}(?!\d))\d")
"""A comma that separates no thousands; the normalisation would join ``1,2`` to 12."""
_TEENS = ("thir", "four", "fif", "six", "seven", "eigh", "nine")
_WORDS = {"eleven": 11, "twelve": 12, "twenty": 20} | {f"{word}teen": n for n, word in enumerate(_TEENS, 13)}
"""Those that the normalisation of VQA does not know; TallyQA counts beyond ten."""


def count(prediction: str, example: Example) -> Verdict:
    """1 when the prediction is the same number as a reference answer, else 0."""
    number = _number(prediction)
    if number is None:
        return Verdict(score=0.0, parsed=False)
    return Verdict(score=float(number in {_number(answer) for answer in example.answers}))


def _number(text: str) -> int | None:
    text = without_emphasis(text)
    if _SIGN.match(text) or _NO_THOUSANDS.search(text):
        return None
    normal = _NO_FRACTION.sub("", normalised(text))
    if normal in _WORDS:
        return _WORDS[normal]
    return int(normal) if normal.isdecimal() else None


def _gold(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    return numbers(values, choices, _number)


METRIC = Metric(name="count", judge=count, version=4, gold=_gold)
