"""Exact match: the answer is one of the reference answers.

Case, blanks around and between words, and one final period do not count; articles, punctuation and number words do.
GQA's own evaluator compares strings as they are, with answers from a closed vocabulary in small letters; a model that
answers freely is given its capital letter and its full stop. RealworldQA is scored in the same way.
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 when the prediction is one of the answers, else 0.

    Raises:
        UserError: there are no answers.
    """
    if not answers:
        raise UserError("nothing to score against: this question has no answers; choose a split that publishes them")
    return float(plain(prediction) in {plain(answer) for answer in answers})


def plain(text: str) -> str:
    """Small letters, single blanks, no final period."""
    words = " ".join(text.lower().split())
    return words.removesuffix(".").rstrip()


METRIC = Metric.of_answers("exact_match", exact_match)
