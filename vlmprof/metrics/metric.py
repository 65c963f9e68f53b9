"""``Metric``: how answers are scored. There are two kinds.

A ``mean`` metric scores each answer separately, and a configuration's accuracy is the mean over its samples. A
``corpus`` metric is one number for all answers together (F1 is a ratio of counts, CIDEr-D weights words by how rare
they are in the whole set): it is computed once over all samples, and never averaged over batches, shards or trials.
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
    """The score of one answer."""

    score: float | None
    """From 0 to 1; None when an answer has no score of its own (some corpus metrics)."""
    parsed: bool = True
    """False when the metric cannot parse the answer: it scores 0 and is counted as unparsable, never guessed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus metric as a function of sums over samples, so that a bootstrap can resample the per-sample terms."""

    parts: Callable[[Sequence[str], Sequence[Example]], Numbers]
    """Answers and their examples -> (samples, k) terms of the sums."""
    combine: Callable[[Numbers], Numbers]
    """(..., k) sums of the terms -> (...) values of the metric."""
    per_sample: Callable[[Numbers], Numbers] | None = None
    """(samples, k) terms -> (samples,) values of the single samples, if the metric defines them."""

    def value(self, parts: Numbers) -> float:
        """The metric over all samples."""
        return float(self.combine(parts.sum(axis=0)))


Judge = Callable[[str, Example], Verdict]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """The name that is written into result rows."""
    judge: Judge
    """(answer, example) -> verdict."""
    corpus: Corpus | None = None
    """None: the metric is the mean of the verdicts' scores."""
    perfect: float = 1.0
    """The upper end of the scale; 10 for CIDEr-D, which even the references themselves do not reach."""

    @property
    def kind(self) -> Kind:
        """``mean`` or ``corpus``."""
        return "mean" if self.corpus is None else "corpus"

    @staticmethod
    def of_answers(name: str, score: Callable[[str, tuple[str, ...]], float]) -> Metric:
        """A ``mean`` metric that needs only an answer and the reference answers, and can parse every answer."""
        return Metric(name=name, judge=lambda text, example: Verdict(score=score(text, example.answers)))
