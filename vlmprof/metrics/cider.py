"""CIDEr-D, the score of COCO captions: shared n-grams, weighed by how rare they are. A corpus metric, from 0 to 10.

Vedantam, Zitnick and Parikh, CIDEr, CVPR 2015, with the choices of the published code that every reported number rests
on: n-grams up to 4; the document frequency of an n-gram is the number of images with it in any reference; counts are
clipped to the reference's; a Gaussian penalty of the difference in length, sigma 6, where the length is the number of
bigrams; the mean over n and over the references, times 10. The words are those of ``metrics._ptb``.

The weights come from all references of the samples that are scored. So the score depends on which samples these are:
compare it on one subset only, and never average it over parts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from vlmprof.errors import UserError
from vlmprof.metrics._ptb import words
from vlmprof.metrics.metric import Corpus, Metric, Numbers, Verdict
from vlmprof.records import Example

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
Gram = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Vector:
    weights: tuple[dict[Gram, float], ...]
    """One a length of n-grams."""
    norms: tuple[float, ...]
    bigrams: int


def cider_parts(predictions: Sequence[str], examples: Sequence[Example]) -> Numbers:
    """(samples, 2): the sample's CIDEr-D, and 1; their sums give the mean.

    Raises:
        UserError: fewer than two images, where every weight is 0, or a sample without references.
    """
    bare = next((example.id for example in examples if not example.answers), None)
    if bare is not None:
        raise UserError(f"'{bare}' has no captions to score against; choose a split that publishes them")
    if len(examples) < 2:
        raise UserError("CIDEr-D needs the captions of two images or more: with one, every word is as rare as any")
    references = [[_grams(words(answer)) for answer in example.answers] for example in examples]
    frequency = Counter(gram for one in references for gram in {gram for counts in one for gram in counts})
    ceiling = math.log(len(examples))
    rarity = {gram: ceiling - math.log(count) for gram, count in frequency.items()}
    scores = [
        _against(_vector(_grams(words(text)), rarity, ceiling), [_vector(counts, rarity, ceiling) for counts in one])
        for text, one in zip(predictions, references, strict=True)
    ]
    return np.column_stack([np.array(scores), np.ones(len(scores))])


def _grams(tokens: Sequence[str]) -> Counter[Gram]:
    return Counter(tuple(tokens[i : i + n]) for n in ORDERS for i in range(len(tokens) - n + 1))


def _vector(counts: Counter[Gram], rarity: dict[Gram, float], ceiling: float) -> _Vector:
    weights: tuple[dict[Gram, float], ...] = tuple({} for _ in ORDERS)
    for gram, count in counts.items():
        weights[len(gram) - 1][gram] = count * rarity.get(gram, ceiling)  # one that no reference has is the rarest
    return _Vector(
        weights=weights,
        norms=tuple(math.sqrt(math.fsum(weight**2 for weight in order.values())) for order in weights),
        bigrams=sum(count for gram, count in counts.items() if len(gram) == 2),
    )


def _against(given: _Vector, references: Sequence[_Vector]) -> float:
    return 10 * math.fsum(_similarity(given, one) for one in references) / len(references) / len(ORDERS)


def _similarity(given: _Vector, wanted: _Vector) -> float:
    """Sum over n of the clipped cosine, times the penalty of length."""
    total = 0.0
    for mine, theirs, norm, other in zip(given.weights, wanted.weights, given.norms, wanted.norms, strict=True):
        if norm and other:
            shared = ((weight, theirs[gram]) for gram, weight in mine.items() if gram in theirs)
            total += math.fsum(min(weight, reference) * reference for weight, reference in shared) / (norm * other)
    return total * math.exp(-((given.bigrams - wanted.bigrams) ** 2) / (2 * SIGMA**2))


def _judge(prediction: str, example: Example) -> Verdict:
    return Verdict(score=None, parsed=bool(words(prediction)))


METRIC = Metric(
    name="cider",
    judge=_judge,
    corpus=Corpus(
        parts=cider_parts,
        combine=lambda sums: np.asarray(sums[..., 0] / sums[..., 1]),
        each=lambda parts: np.asarray(parts[:, 0]),
    ),
    perfect=10.0,
)
