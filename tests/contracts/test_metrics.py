"""Every metric there is against the contract: a new leaf is found by the registry.

A metric judges words unless ``ASKED`` says what else its questions are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.contracts.metric_contract import MetricContract
from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example

WORDS = [asked([word] * 10, name=word) for word in ("stop", "cat", "green")]
CHOICES = [asked([letter], ("leaf", "root", "stem", "seed"), name=letter) for letter in "ABC"]
CAPTIONS = [
    asked([f"a {noun} near a red {other} on the street", f"the {noun} is outside today"], name=noun)
    for noun, other in (("man", "bus"), ("dog", "kite"), ("horse", "clock"))
]
ASKED: Mapping[str, Sequence[Example]] = {
    "cider": CAPTIONS,
    "count": [asked([str(number)], name=str(number)) for number in (0, 2, 7)],
    "mmmu": CHOICES,
    "multiple_choice": CHOICES,
    "pope_f1": [asked([word], name=str(index)) for index, word in enumerate(("yes", "no", "yes", "no"))],
}


@pytest.mark.parametrize("name", registry.names("metrics"))
class TestMetrics(MetricContract):
    @pytest.fixture
    def metric(self, name: str) -> Metric:
        loaded: Metric = registry.load("metrics", name)
        return loaded

    @pytest.fixture
    def examples(self, name: str) -> Sequence[Example]:
        return ASKED.get(name, WORDS)
