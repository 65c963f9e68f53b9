"""POPE's F1: does a model see what is not there? A corpus metric over yes-or-no answers; ``yes`` is the positive class.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023, and ``evaluate.py`` of
RUCAIBox/POPE: the first sentence counts, and it means no when one of its words is no or not, else yes. So every answer
is a yes or a no, officially. Here case does not matter, and an answer whose first sentence has none of the words yes,
no and not is unparsable, which is counted, and is taken as the wrong answer, so that saying nothing never pays.
A sample's own score is 1 when its answer is right: their mean is the accuracy, not this metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmprof.metrics.metric import Corpus, Metric, Numbers, Verdict
from vlmprof.records import Example


def judge(prediction: str, example: Example) -> Verdict:
    """Whether one answer is right."""
    said = says_yes(prediction)
    return Verdict(score=float(said is not None and said == _wanted(example)), parsed=said is not None)


def says_yes(prediction: str) -> bool | None:
    """Whether an answer says yes; None when it says neither."""
    words = prediction.split(".", maxsplit=1)[0].replace(",", " ").lower().split()
    words = [word.strip("!?;:\"'()") for word in words]
    if "no" in words or "not" in words:
        return False
    return True if "yes" in words else None


def f1_parts(predictions: Sequence[str], examples: Sequence[Example]) -> Numbers:
    """(samples, 3): true positive, false positive, false negative."""
    rows = []
    for text, example in zip(predictions, examples, strict=True):
        wanted, said = _wanted(example), says_yes(text)
        said = (not wanted) if said is None else said
        rows.append((wanted and said, said and not wanted, wanted and not said))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def f1(sums: Numbers) -> Numbers:
    """(..., 3) counts -> 2 tp / (2 tp + fp + fn); 0 where nothing is positive at all."""
    hits = 2 * sums[..., 0]
    both = hits + sums[..., 1] + sums[..., 2]
    value: Numbers = np.divide(hits, both, out=np.zeros_like(both), where=both > 0)
    return value


def _wanted(example: Example) -> bool:
    return example.answers[0].strip().lower() == "yes"


METRIC = Metric(name="pope_f1", judge=judge, corpus=Corpus(parts=f1_parts, combine=f1))
