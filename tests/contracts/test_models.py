"""Every model family there is against the contract: a new leaf is found by the registry.

A family that ships weights is tested with those; for another, ``SMALL`` says how a small checkpoint is made. Its
answers must hang on what it is asked: trained weights, or random ones that are far from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import pytest

from tests.contracts.knob_contract import demo_prompts
from tests.contracts.model_contract import POOL, ModelContract
from tests.models._hf.families import BY_NAME, ask
from tests.models._hf.recipes import make
from vlmprof import registry
from vlmprof.models.family import Checkpoint
from vlmprof.records import Prompt

SMALL: Mapping[str, Callable[[Path], Path]] = {
    "molmo": lambda folder: Path(str(files("vlmprof.demo") / "weights")),
    "transformers_vlm": lambda folder: make(BY_NAME["qwen2_5_vl"], folder),
}
TRAINED = {"demo", "molmo"}
"""Families whose checkpoint here knows the demo's task, and says the same to everything else."""


@pytest.mark.parametrize("name", registry.names("models"), scope="class")
class TestModels(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, name: str, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        path = str(SMALL[name](tmp_path_factory.mktemp(name))) if name in SMALL else ""
        return Checkpoint(path=path, revision="", dtype="float32")

    @pytest.fixture(scope="class")
    @classmethod
    def prompts(cls, name: str) -> list[Prompt]:
        if name in TRAINED:
            return demo_prompts(registry.load("tasks", "shapes_qa"), len(POOL))
        return [ask(*about, seed=seed) for seed, about in enumerate(POOL)]
