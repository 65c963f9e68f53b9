"""POPE's F1, a measure of object hallucination: a corpus metric over yes-or-no answers; ``yes`` is the positive class.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023, and ``evaluate.py`` of
RUCAIBox/POPE: only the first sentence counts; it means no when it contains the word no or not, else yes. So the
official code reads every answer as yes or no. Here case and the marks around a word are ignored, ``isn't``, ``cannot``
and their like mean no where no yes stands beside them, and what says that the model does not know (``Not sure``, ``I
can't tell``) means neither. An answer whose first sentence means neither is counted as unparsable and scored as the
wrong answer, so that an empty answer is never an advantage. The score of a sample is 1 when its answer is right; the
mean of these scores is the accuracy, not this metric.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vlmprof.metrics._gold import yes_or_no
from vlmprof.metrics.metric import Corpus, Metric, Numbers, Verdict
from vlmprof.records import Example

_WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|['-])*")
_CANNOT = (
    r"(?:can\s?not|can't|could\s+not|couldn't|(?:\w+n't|not)\s+(?:able|possible)\s+to|unable\s+to|impossible\s+to)"
)
_UNSURE = re.compile(
    r"(?:\bnot|n't)\s+(?:(?:at\s+all|really|quite|so|very|too|entirely|completely|totally|absolutely|fully|100\s?%)\s+)?"
    r"(?:sure|certain|clear|confident|enough|known)\b"
    rf"|\b{_CANNOT}\s+(?:really\s+|be\s+|clearly\s+|definitively\s+)*"
    r"(?:tell|say|know|determined?|decided?|judged?|answer|confirm|sure|certain)\b"
    r"|\b(?:do|does|did)(?:\s+not|n't)\s+(?:really\s+)?know\b"
    r"|\bno\s+(?:idea|clue|way\s+(?:to|of)\s+\w+)\b"
)
"""What says that the model does not know; its "not" or "no" denies nothing in the picture."""


def judge(prediction: str, example: Example) -> Verdict:
    """Whether one answer is right."""
    answer = says_yes(prediction)
    return Verdict(score=float(answer is not None and answer == _is_positive(example)), parsed=answer is not None)


def says_yes(prediction: str) -> bool | None:
    """True for yes, False for no, None when the first sentence means neither, or that the model does not know."""
    sentence = prediction.replace("\u2019", "'").split(".", maxsplit=1)[0].lower()
    words = {word.strip("'-") for word in _WORD.findall(_UNSURE.sub(" ", sentence))}
    if "no" in words or "not" in words:
        return False
    if "yes" in words:
        return True
    return False if any(word == "cannot" or word.endswith("n't") for word in words) else None


def f1_parts(predictions: Sequence[str], examples: Sequence[Example]) -> Numbers:
    """(samples, 3): true positive, false positive, false negative, each 0 or 1."""
    rows = []
    for text, example in zip(predictions, examples, strict=True):
        positive, answer = _is_positive(example), says_yes(text)
        answer = (not positive) if answer is None else answer
        rows.append((positive and answer, answer and not positive, positive and not answer))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def f1(sums: Numbers) -> Numbers:
    """(..., 3) counts -> 2 tp / (2 tp + fp + fn); 0 when all counts are 0."""
    numerator = 2 * sums[..., 0]
    denominator = numerator + sums[..., 1] + sums[..., 2]
    value: Numbers = np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
    return value


def _is_positive(example: Example) -> bool:
    return says_yes(example.answers[0]) is True


METRIC = Metric(name="pope_f1", judge=judge, corpus=Corpus(parts=f1_parts, combine=f1), version=3, gold=yes_or_no)
