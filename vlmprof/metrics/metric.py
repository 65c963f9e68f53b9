"""``Metric``: how answers are scored. There are two kinds.

A ``mean`` metric scores each answer separately, and a configuration's accuracy is the mean over its samples. A
``corpus`` metric is one number for all answers together (F1 is a ratio of counts, CIDEr-D weights words by how rare
they are in the whole set): it is computed once over all samples, and never averaged over batches, shards or trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from vlmprof.errors import UserError, as_written
from vlmprof.metrics._final_answer import final_answer
from vlmprof.metrics._gold import Gold, texts
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


def most_common(example: Example) -> str:
    """The reference answer that was given most often, the first of several."""
    return Counter(example.answers).most_common(1)[0][0]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """The name that is written into result rows."""
    judge: Judge
    """(output, example) -> verdict. Reasoning is removed from the output first, whatever function is given here; an
    output that is nothing but reasoning scores 0 and is unparsable."""
    corpus: Corpus | None = None
    """None: the metric is the mean of the verdicts' scores."""
    perfect: float = 1.0
    """The upper end of the scale; 10 for CIDEr-D, which even the references themselves do not reach."""
    version: int = 1
    """Raised when the same answer may get another score than before; part of a task's identity from 2 on."""
    gold: Gold = texts
    """How reference answers are read that users' own files hold: (values, options) -> ``Example.answers``."""
    best: Callable[[Example], str] = most_common
    """What a perfect model answers; ``check_gold`` requires that it gets more than 0."""
    labels: bool = False
    """Whether options that are labels in the picture are asked without letters, and named by their text."""

    def __post_init__(self) -> None:
        """Let the functions see answers without reasoning."""
        object.__setattr__(self, "judge", partial(_judged, self.judge))
        if self.corpus is not None:
            object.__setattr__(self, "corpus", replace(self.corpus, parts=partial(_parts, self.corpus.parts)))

    @property
    def kind(self) -> Kind:
        """``mean`` or ``corpus``."""
        return "mean" if self.corpus is None else "corpus"

    def check_gold(self, example: Example) -> Example:
        """The example itself, if its reference answers can be reached.

        Raises:
            UserError: it has no reference answer, or a model that gives the best possible answer would score 0.
        """
        if not example.answers:
            raise UserError(f"'{example.id}' has no reference answers; choose a split that publishes them")
        best = self.best(example)
        verdict = self.judge(best, example)
        if verdict.score == 0 or not verdict.parsed:
            said = f"'{example.id}': the metric '{self.name}' gives 0 to the best possible answer, {as_written(best)}"
            options = f", options {list(example.choices)}" if example.choices else ""
            raise UserError(f"{said}; reference answers {list(example.answers)}{options}: correct them")
        return example

    @staticmethod
    def of_answers(
        name: str, score: Callable[[str, tuple[str, ...]], float], *, version: int = 1, gold: Gold = texts
    ) -> Metric:
        """A ``mean`` metric that needs only an answer and the reference answers, and can parse every answer."""
        return Metric(
            name=name,
            judge=lambda text, example: Verdict(score=score(text, example.answers)),
            version=version,
            gold=gold,
        )


def _judged(judge: Judge, output: str, example: Example) -> Verdict:
    answer = final_answer(output)
    verdict = judge(answer, example)
    if answer or not output:
        return verdict
    return Verdict(score=None if verdict.score is None else 0.0, parsed=False)


def _parts(
    parts: Callable[[Sequence[str], Sequence[Example]], Numbers], outputs: Sequence[str], examples: Sequence[Example]
) -> Numbers:
    return parts([final_answer(output) for output in outputs], examples)
