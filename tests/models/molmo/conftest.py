"""A tiny MolmoE of the real classes, its processor, and a picture: everything small, nothing trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import IMAGE_TOKENS, MolmoImageProcessor, MolmoProcessor
from vlmprof.models.molmo.registration import register

WORDS = ["<pad>", "<eos>", "<unk>", *IMAGE_TOKENS.values(), "User", ":", "Assistant", "what", "is", "this", "red"]


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    """transformers knows the classes of Molmo."""
    register()


@pytest.fixture
def config() -> MolmoConfig:
    return tiny_config()


def tiny_config(**changes) -> MolmoConfig:
    text = {
        "model_type": "olmoe",
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "pad_token_id": None,
        "eos_token_id": 1,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "vision_feature_layers": [-1, -3],
    }
    ids = {f"image_{name}_id": WORDS.index(token) for name, token in IMAGE_TOKENS.items()}
    rest = {"adapter_intermediate_size": 16, "additional_vocab_size": 0, "margin_left": 2, "margin_right": 2, **ids}
    return MolmoConfig(**{"text_config": text, "vision_config": vision, **rest, **changes})


@pytest.fixture(scope="module")
def model() -> MolmoForConditionalGeneration:
    torch.manual_seed(0)
    model = MolmoForConditionalGeneration(tiny_config())
    with torch.no_grad():  # as initialised everything is near zero, and every answer the same
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def processor() -> MolmoProcessor:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=list(IMAGE_TOKENS.values()),
    )
    images = MolmoImageProcessor(6, crop_size=64, patch_size=8, overlap_margins=(2, 2))
    return MolmoProcessor(images, tokenizer)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def make_config():
    return tiny_config
