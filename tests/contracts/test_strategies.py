"""Every search strategy there is against the contract: a new leaf is found by the registry."""

from __future__ import annotations

import pytest

from tests.contracts.strategy_contract import Make, StrategyContract
from vlmprof import registry


@pytest.mark.parametrize("name", registry.names("strategies"))
class TestStrategies(StrategyContract):
    @pytest.fixture
    def make(self, name: str) -> Make:  # type: ignore[override]
        strategy: Make = registry.load("strategies", name)
        return strategy
