"""A rough estimate of the memory of one sample: the larger of the vision encoder's activations and the language model's
activations plus KV cache.

It counts the tensors that a block holds at once. It only limits the first steps of the batch-size search, never a
result; see ``models.family.AbstractModel.sample_bytes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.surfaces import Router

VISION_HIDDEN, VISION_INNER = 5, 4
"""Tensors per patch in an encoder block: of hidden size, the residual, its norm, and the kept and concatenated
features; of inner size, the inner layer and its activation."""
TEXT_HIDDEN, EXPERT_HIDDEN, EXPERT_INNER = 8, 2, 3
"""Tensors per token in a decoder block: of hidden size, residual, norms, queries, keys, values and attention output;
and per chosen expert its input and output (hidden size) and gate, up projection and product (inner size). A dense block
counts as one expert."""


def sample_bytes(
    config: MolmoConfig, layers: Sequence[Any], routers: Sequence[Router], size: int, load: tuple[int, int, int]
) -> float:
    """Estimated bytes of one sample.

    Args:
        config: Sizes of the model.
        layers: The decoder blocks that run.
        routers: The routers of the model; empty for a dense one.
        size: Bytes per element of a tensor.
        load: Crops, tokens of the prompt, tokens of the answer.
    """
    crops, prompt, answer = load
    text, vision = config.text, config.vision
    patches = crops * (1 + (vision.image_size // vision.patch_size) ** 2)
    vision_elements = patches * (VISION_HIDDEN * vision.hidden_size + VISION_INNER * vision.intermediate_size)
    head = text.hidden_size // text.num_attention_heads
    cache_elements = len(layers) * 2 * text.num_key_value_heads * head * (prompt + answer)
    experts = max((router.top_k for router in routers), default=1)
    expert = EXPERT_HIDDEN * text.hidden_size + EXPERT_INNER * text.intermediate_size
    text_elements = prompt * (TEXT_HIDDEN * text.hidden_size + experts * expert)
    return float(size * max(vision_elements, cache_elements + text_elements))
