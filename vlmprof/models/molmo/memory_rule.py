"""A rule of thumb for the memory of one sample: the larger of what its image takes in the vision encoder and what its
tokens take in the language model, whose keys and values stay.

It counts the tensors that a block holds at once. It says where a search for the batch size may go early, and no answer
rests on it; see ``models.family.AbstractModel.sample_bytes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.surfaces import Router

VISION_HIDDEN, VISION_INNER = 5, 4
"""Of the encoder, a patch: the residual, its norm, the features kept and joined; the inner layer and its activation."""
TEXT_HIDDEN, EXPERT_HIDDEN, EXPERT_INNER = 8, 2, 3
"""Of a decoder block, a token: residual, norms, queries, keys, values and their sum; and of each expert it is sent to,
input and output, and gate, projection and product. A dense block counts as one expert."""


def sample_bytes(
    config: MolmoConfig, layers: Sequence[Any], routers: Sequence[Router], size: int, load: tuple[int, int, int]
) -> float:
    """Bytes of one sample.

    Args:
        config: Sizes of the model.
        layers: The decoder blocks that run.
        routers: Those of the model; empty for a dense one.
        size: Bytes of a number.
        load: Crops, tokens of the prompt, tokens of the answer.
    """
    crops, prompt, answer = load
    text, vision = config.text, config.vision
    patches = crops * (1 + (vision.image_size // vision.patch_size) ** 2)
    seen = patches * (VISION_HIDDEN * vision.hidden_size + VISION_INNER * vision.intermediate_size)
    head = text.hidden_size // text.num_attention_heads
    kept = len(layers) * 2 * text.num_key_value_heads * head * (prompt + answer)
    experts = max((router.top_k for router in routers), default=1)
    expert = EXPERT_HIDDEN * text.hidden_size + EXPERT_INNER * text.intermediate_size
    read = prompt * (TEXT_HIDDEN * text.hidden_size + experts * expert)
    return float(size * max(seen, kept + read))
