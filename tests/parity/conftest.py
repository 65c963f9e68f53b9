"""Reference data and the models that must reproduce it. One thread, so that sums are taken in one order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.weights import load_strict

DATA = Path(__file__).parent / "data"
IMAGE_IDS = {"moe": 202, "dense_d": 258}
GRID = np.arange(576).reshape(12, 2, 12, 2).transpose(0, 2, 1, 3).reshape(144, 4)  # patches of each pooled slot


class Reference:
    """One npz file as tensors, and the model inputs that its Hub-style arrays amount to."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(DATA / f"{name}_reference.npz")

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def images(self, case: str) -> dict[str, torch.Tensor]:
        index = self.arrays[f"{case}/image_input_idx"]
        crop, slot = np.nonzero(index >= 0)
        order = np.argsort(index[crop, slot])
        pooling = (crop[:, None] * 576 + GRID[slot])[order]
        return {
            "pixel_values": self[f"{case}/images"],
            "image_masks": self[f"{case}/image_masks"],
            "image_token_pooling": torch.from_numpy(pooling),
        }

    def prompt(self, case: str) -> dict[str, torch.Tensor]:
        ids = self[f"{case}/input_ids"][None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def write_hub_folder(name: str, folder: Path) -> Path:
    """A folder as on the Hub: flat config, OLMo's tensor names."""
    shutil.copy(DATA / f"{name}_weights.safetensors", folder / "model.safetensors")
    config = json.loads((DATA / f"{name}_config.json").read_text()) | {"model_type": "molmo"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> MolmoForConditionalGeneration:
    model = load_strict(write_hub_folder(name, folder), dtype=dtype).eval()
    model.config.image_patch_id = IMAGE_IDS[name]
    return model


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference("moe")


@pytest.fixture(scope="session")
def dense_reference() -> Reference:
    return Reference("dense_d")


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_folder("moe", tmp_path_factory.mktemp("hub_moe"))


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> MolmoForConditionalGeneration:
    return load("moe", tmp_path_factory.mktemp("moe"))


@pytest.fixture(scope="session")
def moe_bf16(tmp_path_factory: pytest.TempPathFactory) -> MolmoForConditionalGeneration:
    return load("moe", tmp_path_factory.mktemp("moe_bf16"), torch.bfloat16)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> MolmoForConditionalGeneration:
    return load("dense_d", tmp_path_factory.mktemp("dense"))
