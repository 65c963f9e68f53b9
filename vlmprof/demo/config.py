"""The configuration of the demo model: MolmoE with all its mechanisms, but with small dimensions.

The mechanisms: a ViT over overlapping crops plus a global view, 2 x 2 attention pooling, 8 decoder blocks, 8 experts of
which the top 4 are used with weights that are not renormalised. A 64 px crop is 8 x 8 patches of 8 px with margins of
2, so the global view gives 16 vision tokens and a tiling of a x b crops (2a + 2)(2b + 2) more: 32 in total for one
crop, 80 for 3 x 3.
"""

from typing import Final

from transformers import OlmoeConfig

from vlmprof.demo.tokenizer import BOS_EOS, IMAGE_TOKENS, PAD, vocabulary
from vlmprof.models.molmo.configuration import MolmoConfig, MolmoVisionConfig
from vlmprof.models.molmo.image_processing import MolmoImageProcessor

# The limit on crops in training; also the default of the processor and the largest useful value in a sweep.
MAX_CROPS: Final = 9
CROP_PX: Final = 64
PATCH_PX: Final = 8
MARGIN_PATCHES: Final = 2
BLOCKS: Final = 8
# Trained as 8 experts of width 64 of which 4 are used; each is then split into SEGMENTS (training/segment.py).
SEGMENTS: Final = 2
EXPERTS: Final = 8 * SEGMENTS
TOP_K: Final = 4 * SEGMENTS
HIDDEN: Final = 96
EXPERT_WIDTH: Final = 64 // SEGMENTS
HEADS: Final = 4
VISION_HIDDEN: Final = 96
VISION_MLP: Final = 192
VISION_BLOCKS: Final = 3
ADAPTER_WIDTH: Final = 192
# A multiple of 8 keeps the matrices aligned; the rows beyond the vocabulary are never trained.
VOCABULARY_ROWS: Final = 216
MAX_POSITIONS: Final = 512
# About 0.6 / sqrt(width), as in models of normal width. With the usual 0.02, a vision tower this narrow is almost
# linear at first: it recognised colours after 250 steps, but still no shapes after 500.
INITIALIZER_RANGE: Final = 0.06


def demo_config(segments: int = SEGMENTS) -> MolmoConfig:
    """The configuration of the packaged model; with `segments=1`, of the model before its experts are split."""
    ids = vocabulary()
    start, end, patch, col, _ = (ids[token] for token in IMAGE_TOKENS)
    return MolmoConfig(
        text_config=_text_config(segments),
        vision_config=_vision_config(),
        adapter_intermediate_size=ADAPTER_WIDTH,
        additional_vocab_size=0,
        initializer_range=INITIALIZER_RANGE,
        margin_left=MARGIN_PATCHES,
        margin_right=MARGIN_PATCHES,
        image_start_id=start,
        image_end_id=end,
        image_patch_id=patch,
        image_col_id=col,
        bos_token_id=ids[BOS_EOS],
        eos_token_id=ids[BOS_EOS],
        pad_token_id=ids[PAD],
        architectures=["MolmoForConditionalGeneration"],
    )


def _text_config(segments: int) -> OlmoeConfig:
    return OlmoeConfig(
        vocab_size=VOCABULARY_ROWS,
        hidden_size=HIDDEN,
        intermediate_size=EXPERT_WIDTH * SEGMENTS // segments,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        num_experts=EXPERTS * segments // SEGMENTS,
        num_experts_per_tok=TOP_K * segments // SEGMENTS,
        norm_topk_prob=False,
        initializer_range=INITIALIZER_RANGE,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def _vision_config() -> MolmoVisionConfig:
    return MolmoVisionConfig(
        hidden_size=VISION_HIDDEN,
        intermediate_size=VISION_MLP,
        num_hidden_layers=VISION_BLOCKS,
        num_attention_heads=4,
        image_size=CROP_PX,
        patch_size=PATCH_PX,
        vision_feature_layers=[-1, -2],
        initializer_range=INITIALIZER_RANGE,
    )


def demo_image_processor() -> MolmoImageProcessor:
    """The image processor that matches `demo_config`."""
    return MolmoImageProcessor(
        max_crops=MAX_CROPS,
        crop_size=CROP_PX,
        patch_size=PATCH_PX,
        overlap_margins=(MARGIN_PATCHES, MARGIN_PATCHES),
    )
