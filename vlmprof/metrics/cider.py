"""CIDEr-D, the metric of COCO captions: shared n-grams, weighted by rarity. A corpus metric, from 0 to 10.

Vedantam, Zitnick and Parikh, CIDEr, CVPR 2015, with the choices of the published code, which all reported numbers use:
n-grams up to 4; the document frequency of an n-gram is the number of images with it in any reference; counts are
clipped to those of the reference; a Gaussian penalty on the difference in length, with sigma 6, where the length is the
number of bigrams; the mean over n and over the references, times 10. Captions are tokenized by ``metrics._ptb``.

The weights are computed from all references of the scored samples. So the score depends on the choice of samples:
compare it on the same subset only, and never average it over parts of a subset.
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
NGram = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Vector:
    weights: tuple[dict[NGram, float], ...]
    """TF-IDF weight of each n-gram; one dictionary per n."""
    norms: tuple[float, ...]
    """Euclidean norm of the weights; one per n."""
    bigrams: int
    """Number of bigrams, the length of the caption."""


def cider_parts(predictions: Sequence[str], examples: Sequence[Example]) -> Numbers:
    """(samples, 2): the CIDEr-D of each sample, and 1; the ratio of their sums is the mean.

    Raises:
        UserError: there are fewer than two images, so that every weight is 0, or a sample has no references.
    """
    unanswered = next((example.id for example in examples if not example.answers), None)
    if unanswered is not None:
        raise UserError(f"'{unanswered}' has no captions to score against; choose a split that publishes them")
    if len(examples) < 2:
        raise UserError("CIDEr-D needs the captions of two images or more: with one image, all words are equally rare")
    references = [[_ngrams(words(answer)) for answer in example.answers] for example in examples]
    frequency = Counter(
        ngram for captions in references for ngram in {ngram for counts in captions for ngram in counts}
    )
    max_idf = math.log(len(examples))
    idf = {ngram: max_idf - math.log(count) for ngram, count in frequency.items()}
    scores = [
        _mean_similarity(
            _vector(_ngrams(words(text)), idf, max_idf), [_vector(counts, idf, max_idf) for counts in captions]
        )
        for text, captions in zip(predictions, references, strict=True)
    ]
    return np.column_stack([np.array(scores), np.ones(len(scores))])


def _ngrams(tokens: Sequence[str]) -> Counter[NGram]:
    return Counter(tuple(tokens[i : i + n]) for n in ORDERS for i in range(len(tokens) - n + 1))


def _vector(counts: Counter[NGram], idf: dict[NGram, float], max_idf: float) -> _Vector:
    weights: tuple[dict[NGram, float], ...] = tuple({} for _ in ORDERS)
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * idf.get(ngram, max_idf)  # an n-gram in no reference is the rarest
    return _Vector(
        weights=weights,
        norms=tuple(math.sqrt(math.fsum(weight**2 for weight in order.values())) for order in weights),
        bigrams=sum(count for ngram, count in counts.items() if len(ngram) == 2),
    )


def _mean_similarity(caption: _Vector, references: Sequence[_Vector]) -> float:
    total = math.fsum(_similarity(caption, reference) for reference in references)
    return 10 * total / len(references) / len(ORDERS)


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Sum over n of the clipped cosine similarity, times the length penalty."""
    total = 0.0
    orders = zip(caption.weights, reference.weights, caption.norms, reference.norms, strict=True)
    for weights, reference_weights, norm, reference_norm in orders:
        if norm and reference_norm:
            shared = ((weights[ngram], reference_weights[ngram]) for ngram in weights if ngram in reference_weights)
            dot = math.fsum(min(weight, wanted) * wanted for weight, wanted in shared)
            total += dot / (norm * reference_norm)
    return total * math.exp(-((caption.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2))


def _judge(prediction: str, example: Example) -> Verdict:
    return Verdict(score=None, parsed=bool(words(prediction)))


METRIC = Metric(
    name="cider",
    judge=_judge,
    corpus=Corpus(
        parts=cider_parts,
        combine=lambda sums: np.asarray(sums[..., 0] / sums[..., 1]),
        per_sample=lambda parts: np.asarray(parts[:, 0]),
    ),
    perfect=10.0,
    version=2,
)
