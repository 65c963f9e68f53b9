"""``Metric``: what an answer is worth, as a value. Two kinds, which are never mixed up.

A ``mean`` metric judges each answer by itself, and a configuration's accuracy is the mean over its samples. A
``corpus`` metric is a number of all answers together (F1 is a ratio of counts, CIDEr-D weighs words by how rare they
are in the whole set): it is computed once over all samples, and never averaged over batches, shards or trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from vlmprof.records import Example

Numbers = NDArray[np.float64]
Kind = Literal["mean", "corpus"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What can be said about one answer alone."""

    score: float | None
    """From 0 to 1; None where an answer has no score without the others."""
    parsed: bool = True
    """False: the answer says nothing that the metric understands. It scores 0 and is counted, nothing is guessed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A number of all answers together, as a function of a sum over samples: what a bootstrap needs."""

    parts: Callable[[Sequence[str], Sequence[Example]], Numbers]
    """Answers and their examples -> (samples, k) contributions."""
    combine: Callable[[Numbers], Numbers]
    """(..., k) sums of contributions -> (...) values of the metric."""
    each: Callable[[Numbers], Numbers] | None = None
    """(samples, k) contributions -> (samples,) values a sample, where the metric has any."""

    def value(self, parts: Numbers) -> float:
        """The metric over all samples."""
        return float(self.combine(parts.sum(axis=0)))


Judge = Callable[[str, Example], Verdict]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric, by the name that goes into every row."""

    name: str
    judge: Judge
    """(answer, example) -> verdict."""
    corpus: Corpus | None = None
    """None: the metric is the mean of the verdicts' scores."""
    perfect: float = 1.0
    """Most that can be reached; 10 for CIDEr-D, where even the references do not reach it."""

    @property
    def kind(self) -> Kind:
        """``mean`` or ``corpus``."""
        return "mean" if self.corpus is None else "corpus"

    @staticmethod
    def of_answers(name: str, score: Callable[[str, tuple[str, ...]], float]) -> Metric:
        """A ``mean`` metric that needs an answer and the reference answers, and understands every answer."""
        return Metric(name=name, judge=lambda text, example: Verdict(score=score(text, example.answers)))
