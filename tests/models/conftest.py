"""Each tiny family, made and loaded once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.models._hf.families import ASKED, BY_NAME, EVERY, Family, ask
from tests.models._hf.recipes import make
from vlmprof.models.family import Checkpoint
from vlmprof.records import Prompt


@pytest.fixture(scope="session")
def family_named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    @cache
    def named(name: str) -> Family:
        folder = make(BY_NAME[name], tmp_path_factory.mktemp(name))
        return Family(BY_NAME[name], Checkpoint(path=str(folder), revision="", dtype="float32"))

    return named


@pytest.fixture(params=EVERY)
def family(request: pytest.FixtureRequest, family_named: Callable[[str], Family]) -> Family:
    return family_named(request.param)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    return [ask(*asked, seed=seed) for seed, asked in enumerate(ASKED)]
