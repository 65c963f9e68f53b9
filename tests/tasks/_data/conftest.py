"""The cache of pictures and indices: each test has its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
