"""A model for tests: the demo's architecture with random weights."""

from __future__ import annotations

from pathlib import Path


def tiny_checkpoint(folder: Path) -> Path:
    """Write it to ``folder``: every mechanism, no training, one second. The same weights every time."""
    import torch

    from vlmprof.demo.config import demo_config, demo_image_processor
    from vlmprof.demo.tokenizer import build_tokenizer
    from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
    from vlmprof.models.molmo.processing import MolmoProcessor
    from vlmprof.models.molmo.registration import register

    register()
    torch.manual_seed(7)
    MolmoForConditionalGeneration(demo_config()).save_pretrained(folder)
    MolmoProcessor(demo_image_processor(), build_tokenizer()).save_pretrained(folder)
    return folder
