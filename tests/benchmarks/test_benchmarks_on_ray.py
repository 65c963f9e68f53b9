"""The benchmarks that start a Ray cluster, tried at a tiny size, one after the other with all tests that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.test_benchmarks import ON_RAY, runs_at_a_tiny_size

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]


@pytest.mark.parametrize("name", sorted(ON_RAY))
def test_it_runs_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    runs_at_a_tiny_size(name, tmp_path)
