from pathlib import Path

import pytest

from tests.contracts.knob_contract import demo_checkpoint, demo_prompts
from vlmprof import registry
from vlmprof.records import Prompt
from vlmprof.surfaces import Anatomy


@pytest.fixture(scope="session")
def anatomy(tiny_checkpoint: Path) -> Anatomy:
    described: Anatomy = registry.load("models", "demo").describe(demo_checkpoint(tiny_checkpoint))
    return described


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"))
