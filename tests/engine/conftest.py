"""Fixtures of the engine's tests: a few prompts, and an engine whose recordings run from Python."""

from __future__ import annotations

import pytest

from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.records import Prompt


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"), 8)


@pytest.fixture
def graphs() -> StaticEngine:
    return StaticEngine("graphs", capture=False)
