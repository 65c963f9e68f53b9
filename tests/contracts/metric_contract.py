"""What every metric owes, as a suite to inherit: fixtures give the metric, examples, and a wrong answer to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.metrics.metric import Metric
from vlmprof.records import Example


class MetricContract:
    """Inherit, and give the fixtures ``name`` (its key), ``metric``, ``examples`` and ``wrong``."""

    @pytest.fixture
    def metric(self) -> Metric:
        raise NotImplementedError

    @pytest.fixture
    def examples(self) -> Sequence[Example]:
        """Two or more, whose right answers differ; their pictures cannot be loaded, as a metric looks at none."""
        raise NotImplementedError

    @pytest.fixture
    def wrong(self) -> str:
        """An answer that is wrong for all examples."""
        return "zzz qqq"

    @final
    def test_it_goes_by_the_name_of_its_file(self, metric: Metric, name: str) -> None:
        assert metric.name == name
        assert (metric.kind == "corpus") == (metric.corpus is not None)

    @final
    def test_any_text_gets_a_verdict_and_the_same_twice(self, metric: Metric, examples: Sequence[Example]) -> None:
        @settings(max_examples=100, deadline=None)
        @given(st.text(max_size=40), st.sampled_from(examples))
        def holds(text: str, example: Example) -> None:
            verdict = metric.judge(text, example)
            assert metric.judge(text, example) == verdict
            if metric.kind == "mean":
                assert verdict.score is not None
            assert verdict.score is None or 0 <= verdict.score <= 1
            assert verdict.parsed or not verdict.score, "an answer that says nothing is worth something"

        holds()

    @final
    def test_right_answers_are_worth_more_than_wrong_ones_and_silence_nothing(
        self, metric: Metric, examples: Sequence[Example], wrong: str
    ) -> None:
        gold = [max(example.answers, key=example.answers.count) for example in examples]
        if metric.corpus is None:
            scores = [metric.judge(text, example).score for text, example in zip(gold, examples, strict=True)]
            assert scores == [metric.perfect] * len(examples)
            assert {metric.judge(text, example).score for text in (wrong, "") for example in examples} == {0.0}
            return
        best, worst, silent = (
            value(metric, texts, examples) for texts in (gold, [wrong] * len(gold), [""] * len(gold))
        )
        assert metric.perfect >= best > 0.25 * metric.perfect
        assert worst == silent == 0

    @final
    def test_the_order_of_samples_does_not_matter(
        self, metric: Metric, examples: Sequence[Example], wrong: str
    ) -> None:
        texts = [wrong if index % 2 else example.answers[0] for index, example in enumerate(examples)]
        if metric.corpus is None:
            return  # each answer is judged by itself
        parts = metric.corpus.parts(texts, examples)
        assert parts.shape[0] == len(examples) and np.isfinite(parts).all()
        backwards = metric.corpus.parts(texts[::-1], list(examples)[::-1])
        np.testing.assert_allclose(backwards[::-1], parts, rtol=1e-12)
        if metric.corpus.per_sample is not None:
            assert metric.corpus.per_sample(parts).shape == (len(examples),)


def value(metric: Metric, texts: Sequence[str], examples: Sequence[Example]) -> float:
    """A corpus metric over these answers."""
    assert metric.corpus is not None
    return metric.corpus.value(metric.corpus.parts(texts, examples))
