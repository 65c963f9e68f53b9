"""Write a trained model as it ships: bf16 weights, processor and tokenizer in one directory, and their hash."""

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
    """Save and return the sha256 of the weights file. bf16 halves the size; load as float32 for exact batches."""
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    MolmoProcessor(image_processor=demo_image_processor(), tokenizer=build_tokenizer()).save_pretrained(directory)
    # safetensors writes for the owner alone; a package is read by others.
    (directory / "model.safetensors").chmod(0o644)
    return weights_sha256(directory)


def weights_sha256(directory: Path = WEIGHTS) -> str:
    """The sha256 of the weights file."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
