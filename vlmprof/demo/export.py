"""Write a trained model as it ships: bf16 weights, processor and tokenizer in one directory, and their hash.

`python -m vlmprof.demo.export CHECKPOINT [DIRECTORY]` exports a checkpoint of a run that goes on.
"""

import argparse
import copy
import hashlib
import sys
from pathlib import Path
from typing import Final

import torch

from vlmprof.demo.config import demo_config, demo_image_processor
from vlmprof.demo.tokenizer import build_tokenizer
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor

WEIGHTS: Final = Path(__file__).parent / "weights"


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


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export a training checkpoint as the demo model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("directory", type=Path, nargs="?", default=WEIGHTS)
    options = parser.parse_args(arguments)
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    model = MolmoForConditionalGeneration(demo_config())
    model.load_state_dict(state["model"])
    print(f"step {state['step']}: sha256 {export(model, options.directory)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
