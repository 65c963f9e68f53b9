"""ANLS, the metric of DocVQA, InfographicVQA and ST-VQA: normalised edit similarity, with 0 for dissimilar texts.

Biten et al., Scene Text Visual Question Answering, ICCV 2019: the maximum over the reference answers of ``1 - NL``,
where ``NL`` is the Levenshtein distance divided by the longer length; 0 when that maximum is below the threshold 0.5.
Case and the amount of whitespace are ignored in the distance. As in the evaluator of the competition (and of Qwen-VL
and lmms-eval, which took it over), the longer length is that of the texts as they are, so that doubled blanks make a
wrong letter count for less, and a similarity of exactly 0.5 counts (the paper's formula drops it). Two empty texts are
equal.
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric

THRESHOLD = 0.5


def anls(prediction: str, answers: tuple[str, ...]) -> float:
    """Similarity of a prediction to the most similar reference answer, from 0 to 1.

    Raises:
        UserError: there are no answers, as in the test splits, which publish none.
    """
    if not answers:
        raise UserError("this question has no reference answers to score against; choose a split that publishes them")
    best = max(_similarity(prediction, answer) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def levenshtein(first: str, second: str) -> int:
    """Minimum number of insertions, deletions and substitutions between two texts (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, first_char in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, second_char in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (first_char != second_char))
    return row[-1]


def _similarity(first: str, second: str) -> float:
    longest = max(len(first.upper()), len(second.upper()))  # a letter may become two in upper case
    return 1 - levenshtein(_normalised(first), _normalised(second)) / longest if longest else 1.0


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


METRIC = Metric.of_answers("anls", anls, version=2)
