"""Every knob of the package against the contract; one that is missing here fails the last test."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.contracts.knob_contract import KnobContract
from tests.contracts.load_knob_contract import LoadKnobContract
from tests.models._hf.recipes import RECIPES, make
from vlmprof import registry
from vlmprof.errors import KnobValueError
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.models.molmo.anatomy import read_anatomy
from vlmprof.surfaces import Anatomy

BROKEN_NUMBERS = [0, -1, 1.5, True, "2", None]


class TestMaxCrops(KnobContract):
    name = "max_crops"

    def effective(self) -> Sequence[Any]:
        return [1, 2, 4]

    def illegal(self) -> Sequence[Any]:
        return [*BROKEN_NUMBERS, 10_000]


class TestVisionTokens(KnobContract):
    name = "vision_tokens"

    def effective(self) -> Sequence[Any]:
        return [40, 60]

    def illegal(self) -> Sequence[Any]:
        return [*BROKEN_NUMBERS, 31]


class TestMaxPixels(KnobContract):
    """On a tiny Qwen2.5-VL: the demo cuts images into crops."""

    name = "max_pixels"

    def effective(self) -> Sequence[Any]:
        return [256, 1024, 2048]

    def illegal(self) -> Sequence[Any]:
        return [*BROKEN_NUMBERS, 255, 10**9]

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        (recipe,) = [recipe for recipe in RECIPES if recipe.name == "qwen2_5_vl"]
        return Checkpoint(path=str(make(recipe, tmp_path_factory.mktemp("pixels"))), revision="", dtype="float32")

    @pytest.fixture(scope="class")
    @classmethod
    def anatomy(cls, checkpoint: Checkpoint) -> Anatomy:
        described: Anatomy = registry.load("models", "transformers_vlm").describe(checkpoint)
        return described

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, checkpoint: Checkpoint) -> AbstractModel:
        loaded: AbstractModel = registry.load("models", "transformers_vlm").load(checkpoint, "cpu")
        return loaded


class TestTiling(KnobContract):
    name = "tiling"

    def effective(self) -> Sequence[Any]:
        return [[1, 2], [3, 1]]

    def illegal(self) -> Sequence[Any]:
        return [4, [], [1], [1, 2, 3], [0, 1], [1.0, 2], [200, 200], "1x2", {"rows": 1}]


class TestMoeTopK(KnobContract):
    name = "moe_top_k"

    def effective(self) -> Sequence[Any]:
        return [1, 2, 16, [1, 2, 3, 4, 5, 6, 7, 8], {"k": 2, "renormalise": True}]

    def illegal(self) -> Sequence[Any]:
        lists = [[], [1, 2], [1, 2, 3, 4, 5, 6, 7, 17], [True] * 8]
        mappings = [{"k": 2}, {"k": 2, "renormalise": False}, {"k": 17, "renormalise": True}, {"renormalise": True}]
        return [*BROKEN_NUMBERS, 17, *lists, *mappings]


class TestActiveBlocks(KnobContract):
    name = "active_blocks"

    def effective(self) -> Sequence[Any]:
        random = [{"keep": 3, "policy": "nested_random", "seed": 1}, {"keep": 5, "policy": "legacy_random"}]
        return [{"keep": 3, "policy": "prefix"}, [0, 2, 7], [1, 3], [5], {"drop": [0, 4], "policy": "drop"}, *random]

    def illegal(self) -> Sequence[Any]:
        mappings = [
            {"keep": 2, "policy": "nested_random"},
            {"keep": 3, "policy": "legacy_random"},
            {"keep": 2, "policy": "prefix", "seed": 1},
            {"drop": list(range(8)), "policy": "drop"},
            {"drop": [8], "policy": "drop"},
            {"drop": 1, "policy": "drop"},
            {"keep": 2, "policy": "importance", "table": "no-such.json"},
            {"keep": 2, "policy": "importance", "table": "../outside.json"},
            {"keep": 2},
        ]
        return [
            *mappings,
            4,
            [],
            [1, 0],
            [0, 0],
            [8],
            [-1],
            {"keep": 0, "policy": "prefix"},
            {"keep": 2, "policy": "first"},
            {},
        ]


class TestOutputTokens(KnobContract):
    name = "output_tokens"

    def effective(self) -> Sequence[Any]:
        return [1, 2, 5]

    def illegal(self) -> Sequence[Any]:
        return BROKEN_NUMBERS


class TestDtype(LoadKnobContract):
    name, usual = "dtype", "float32"

    def effective(self) -> Sequence[str]:
        return ["bfloat16"]

    def illegal(self) -> Sequence[Any]:
        return ["float64", "bf16", 16, None, True, ["float32"]]


class TestAttention(LoadKnobContract):
    name, usual = "attention", "sdpa"

    def effective(self) -> Sequence[str]:
        return ["eager"]

    def illegal(self) -> Sequence[Any]:
        return ["flash", "sdp", "flex_attention", 2, None, {"text": "eager"}]


class TestExpertsKernel(LoadKnobContract):
    name, usual = "experts_kernel", "grouped_mm"

    def effective(self) -> Sequence[str]:
        return ["eager", "batched_mm"]

    def illegal(self) -> Sequence[Any]:
        return ["grouped", "deepgemm", 1, None, ["eager"]]


def test_every_knob_of_the_package_is_held_to_the_contract() -> None:
    held = {suite.name for suite in (*KnobContract.__subclasses__(), *LoadKnobContract.__subclasses__())}
    assert held | {"trouble"} == set(registry.names("knobs"))


def test_a_dense_model_refuses_top_k_before_any_weights() -> None:
    dense = read_anatomy("molmo", Checkpoint(path="allenai/Molmo-7B-D-0924", revision="", dtype="bfloat16"))
    with pytest.raises(KnobValueError, match="dense"):
        registry.load("knobs", "moe_top_k").check(2, dense)
