"""ANLS, the score of DocVQA, InfographicVQA and ST-VQA: similar enough text counts by its similarity.

Biten et al., Scene Text Visual Question Answering, ICCV 2019: the best over the reference answers of ``1 - NL``, where
``NL`` is the Levenshtein distance over the longer length, and 0 where that is below the threshold 0.5. Case and runs of
blanks do not count. A similarity of exactly 0.5 is kept, as the evaluator of the competition keeps it (the paper's
formula drops it). Two empty texts are equal.
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric

THRESHOLD = 0.5


def anls(prediction: str, answers: tuple[str, ...]) -> float:
    """Similarity of a prediction with the reference answer it is most like, from 0 to 1.

    Raises:
        UserError: there are no answers, as in the test splits, which publish none.
    """
    if not answers:
        raise UserError("nothing to score against: this question has no answers; choose a split that publishes them")
    best = max(_similarity(_plain(prediction), _plain(answer)) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions from one text to the other (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _similarity(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    return 1 - levenshtein(first, second) / longest if longest else 1.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


METRIC = Metric.of_answers("anls", anls)
