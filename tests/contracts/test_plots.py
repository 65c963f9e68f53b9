"""Every plot there is against the contract: a new leaf is found by the registry."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contracts.plot_contract import PlotContract
from vlmprof import registry
from vlmprof.plots.plot import AbstractPlot


@pytest.mark.parametrize("name", registry.names("plots"), scope="class")
class TestPlots(PlotContract):
    @pytest.fixture(scope="class")
    @classmethod
    def plot(cls, name: str) -> AbstractPlot[Any]:
        loaded: AbstractPlot[Any] = registry.load("plots", name)
        return loaded
