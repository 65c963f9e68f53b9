"""Write a trained model in the packaged format: bf16 weights, processor and tokenizer in one directory."""

import copy
import hashlib
from pathlib import Path
from typing import Final

import torch

from vlmprof.demo.config import demo_image_processor
from vlmprof.demo.tokenizer import build_tokenizer
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor

WEIGHTS: Final = Path(__file__).parents[1] / "weights"


def export(model: MolmoForConditionalGeneration, directory: Path) -> str:
    """Save the model; returns the sha256 of the weights file.

    bf16 halves the size. Load the weights as float32, so that answers do not depend on the batch size.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    MolmoProcessor(image_processor=demo_image_processor(), tokenizer=build_tokenizer()).save_pretrained(directory)
    # safetensors creates files that only the owner can read; a package must be readable by all users.
    (directory / "model.safetensors").chmod(0o644)
    return weights_sha256(directory)


def weights_sha256(directory: Path = WEIGHTS) -> str:
    """The sha256 of the weights file."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
