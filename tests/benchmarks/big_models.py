"""MolmoE of any size with random weights, made on the device: no file is read."""

from __future__ import annotations

import torch
from transformers import OlmoeConfig

from vlmprof.demo.config import demo_config, demo_image_processor
from vlmprof.demo.tokenizer import BOS_EOS, IMAGE_TOKENS, PAD, build_tokenizer, vocabulary
from vlmprof.models._implementations import EXPERTS_KERNELS
from vlmprof.models.molmo.configuration import MolmoConfig, MolmoVisionConfig
from vlmprof.models.molmo.image_processing import MolmoImageProcessor
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor
from vlmprof.models.molmo.runtime import LoadedMolmo


def molmoe_1b_config() -> MolmoConfig:
    """MolmoE-1B: OLMoE-1B-7B behind ViT-L/14-336. Ids of special tokens are those of the demo's tokenizer."""
    ids = vocabulary()
    start, end, patch, col, _ = (ids[token] for token in IMAGE_TOKENS)
    text = OlmoeConfig(
        vocab_size=50304 + 128,
        hidden_size=2048,
        intermediate_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_experts=64,
        num_experts_per_tok=8,
        norm_topk_prob=False,
        max_position_embeddings=4096,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return MolmoConfig(
        text_config=text,
        vision_config=MolmoVisionConfig(),
        adapter_intermediate_size=1024,
        additional_vocab_size=128,
        image_start_id=start,
        image_end_id=end,
        image_patch_id=patch,
        image_col_id=col,
        bos_token_id=ids[BOS_EOS],
        eos_token_id=ids[BOS_EOS],
        pad_token_id=ids[PAD],
        architectures=["MolmoForConditionalGeneration"],
    )


def random_molmo(device: str, *, tiny: bool, seed: int = 0, config: MolmoConfig | None = None) -> LoadedMolmo:
    """A loaded model of MolmoE-1B's sizes, or those of ``config``, in bf16; or of the demo's in fp32."""
    images = demo_image_processor() if tiny else MolmoImageProcessor()
    config = config or (demo_config() if tiny else molmoe_1b_config())
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with torch.device(device):
            model = MolmoForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    # Random routers of the usual spread choose experts almost by chance of the token, as a trained one balances them.
    model.eval().requires_grad_(False)
    loaded = LoadedMolmo(model, MolmoProcessor(images, build_tokenizer()), device)
    loaded.decoder.set_experts_implementation(EXPERTS_KERNELS[0])
    loaded.eos_ids = frozenset({-1})  # a random model's end of sequence means nothing: every answer has full length
    return loaded
