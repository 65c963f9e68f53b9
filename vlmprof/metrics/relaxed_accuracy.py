"""Relaxed accuracy, the metric of ChartQA: a number may be off by 5 %, any other answer must match exactly.

Masry et al., ChartQA, Findings of ACL 2022, after Methani et al., PlotQA, WACV 2020. As in the published code: a number
may end in a percent sign, which divides it by 100; the tolerance is relative to the reference; when either side is not
a number, or the reference is 0, the texts must be equal except for case. A number with thousands separators is treated
as text. Two departures: blanks around an answer are ignored, and equal texts are always right, also where they read as
numbers that no number is near (``nan``, ``inf``).
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric

TOLERANCE = 0.05


def relaxed_accuracy(prediction: str, answers: tuple[str, ...]) -> float:
    """1 when the prediction is within 5 % of a numeric answer, or equal to any other answer, else 0.

    Raises:
        UserError: there are no answers.
    """
    if not answers:
        raise UserError("this question has no reference answers to score against; choose a split that publishes them")
    return float(any(_close(prediction.strip(), answer.strip()) for answer in answers))


def _close(prediction: str, answer: str) -> bool:
    value, reference = _number(prediction), _number(answer)
    if prediction.lower() == answer.lower():
        return True
    if value is not None and reference:
        return abs(value - reference) / abs(reference) <= TOLERANCE
    return False


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


METRIC = Metric.of_answers("relaxed_accuracy", relaxed_accuracy, version=2)
