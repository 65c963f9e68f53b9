"""Exact match: the answer must be one of the reference answers.

Case, whitespace, one final period, and emphasis or quotes around the whole answer (``**Yes**``) are ignored; articles,
other punctuation and number words are not. GQA's own
evaluator compares the unchanged strings, whose answers come from a closed lower-case vocabulary; here a model that
answers freely is not penalised for a capital letter or a full stop.
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics._emphasis import without_emphasis
from vlmprof.metrics.metric import Metric


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 when the prediction is one of the answers, else 0.

    Raises:
        UserError: there are no answers.
    """
    if not answers:
        raise UserError("this question has no reference answers to score against; choose a split that publishes them")
    return float(plain(prediction) in {plain(answer) for answer in answers})


def plain(text: str) -> str:
    """The text in lower case, with single spaces, without a final period, emphasis and quotes around it."""
    words = " ".join(without_emphasis(text).lower().split())
    return words.removesuffix(".").rstrip()


METRIC = Metric.of_answers("exact_match", exact_match, version=2)
