"""Models for tests: the demo's architecture with random weights, and a dense one of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tiny_checkpoint(folder: Path) -> Path:
    """Write it to ``folder``: every mechanism, no training, one second. The same weights every time."""
    return _written(folder, None)


def tiny_dense_checkpoint(folder: Path) -> Path:
    """The same without experts: a Molmo on a small Qwen2, as Molmo-7B-D is on a large one."""
    from transformers import Qwen2Config

    sizes = {"hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    limits = {"num_hidden_layers": 4, "max_position_embeddings": 512, "pad_token_id": None}
    return _written(folder, Qwen2Config(**sizes, **limits))


def _written(folder: Path, text_config: Any) -> Path:
    import torch

    from vlmprof.demo.config import demo_config, demo_image_processor
    from vlmprof.demo.tokenizer import build_tokenizer
    from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
    from vlmprof.models.molmo.processing import MolmoProcessor
    from vlmprof.models.molmo.registration import register

    register()
    torch.manual_seed(7)
    config = demo_config()
    if text_config is not None:
        text_config.vocab_size = config.text_config.vocab_size
        config.text_config = text_config
    MolmoForConditionalGeneration(config).save_pretrained(folder)
    MolmoProcessor(demo_image_processor(), build_tokenizer()).save_pretrained(folder)
    return folder
