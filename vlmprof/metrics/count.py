"""Counting: the answer must be the right number, in digits or as a word.

TallyQA (Acharya, Kafle and Kanan, AAAI 2019) reports the share of questions whose count is exactly right. An answer is
a number if only a number remains after case, articles, punctuation and number words are normalised as in the official
VQA accuracy. "2", "two" and "Two." are 2; "about 2 dogs" is not a number: it scores 0 and is counted as unparsable.
"""

from __future__ import annotations

from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.metrics.vqa import normalised
from vlmprof.records import Example


def count(prediction: str, example: Example) -> Verdict:
    """1 when the prediction is the same number as a reference answer, else 0."""
    number = _number(prediction)
    if number is None:
        return Verdict(score=0.0, parsed=False)
    return Verdict(score=float(number in {_number(answer) for answer in example.answers}))


def _number(text: str) -> int | None:
    normal = normalised(text.strip())
    return int(normal) if normal.isdecimal() else None


METRIC = Metric(name="count", judge=count)
