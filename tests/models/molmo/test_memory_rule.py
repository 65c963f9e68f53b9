"""The rule of thumb for a sample's memory: near what a GPU took, and monotone in every knob."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.benchmarks.big_models import molmoe_1b_config
from vlmprof.models.molmo.memory_rule import sample_bytes

MIB = 2**20
# Peak less weights of worst-case batches with 8 tokens to answer, bf16, on one H100 (docs/batch_size_optimization.md):
# crops with the global view, tokens of the prompt, experts, blocks, MiB a sample.
MEASURED = [(3, 430, 8, 16, 127), (3, 430, 2, 16, 87), (13, 1230, 2, 8, 319), (13, 1230, 8, 16, 433)]


def rule(crops: int, tokens: int, top_k: int, blocks: int, answer: int = 8) -> float:
    routers = [SimpleNamespace(top_k=top_k)] * 16
    return sample_bytes(molmoe_1b_config(), range(blocks), routers, 2, (crops, tokens, answer)) / MIB


@pytest.mark.parametrize(("crops", "tokens", "top_k", "blocks", "measured"), MEASURED)
def test_it_is_within_a_third_of_what_a_gpu_took(
    crops: int, tokens: int, top_k: int, blocks: int, measured: float
) -> None:
    assert rule(crops, tokens, top_k, blocks) == pytest.approx(measured, rel=1 / 3)


def test_it_grows_with_every_knob() -> None:
    assert rule(3, 430, 2, 8) < min(rule(3, 430, 8, 8), rule(3, 430, 2, 16), rule(13, 1230, 2, 8))
