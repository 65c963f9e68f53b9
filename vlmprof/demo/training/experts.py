"""Every expert computed for every token, for training alone.

The kernels that compute only the chosen experts sort tokens by expert, which for experts of width 64 costs more than
the products saved, and in shapes that no CUDA graph can hold. Here the weights of the experts that were not chosen are
zero: the same sum, in two large products of fixed shape.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "vlmprof_dense"


def dense_experts(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The weighted sum of the chosen experts.

    Args:
        experts: Module with ``gate_up_proj`` (experts, 2 * width, hidden) and ``down_proj`` (experts, hidden, width).
        hidden: (tokens, hidden).
        top_k_index: (tokens, k), the experts chosen.
        top_k_weights: (tokens, k), their weights.

    Returns:
        (tokens, hidden).
    """
    count = experts.gate_up_proj.shape[0]
    weights = top_k_weights.new_zeros(hidden.shape[0], count).scatter(1, top_k_index, top_k_weights)
    gate, up = (hidden @ experts.gate_up_proj.flatten(0, 1).T).unflatten(1, (count, -1)).chunk(2, dim=-1)
    inner = experts.act_fn(gate) * up * weights[..., None]
    output: Tensor = inner.flatten(1) @ experts.down_proj.transpose(1, 2).flatten(0, 1)
    return output


def register() -> None:
    """Let ``set_experts_implementation`` find it under ``NAME``."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, dense_experts)
