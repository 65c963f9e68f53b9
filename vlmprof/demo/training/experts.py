"""An experts implementation that computes every expert for every token, for training only.

Kernels that compute only the selected experts sort tokens by expert. For experts of width 64 this costs more than the
matrix products it saves, and its shapes depend on the data, which a CUDA graph does not allow. Here the weights of
unselected experts are zero: the sum is the same, from two large matrix products of fixed shape.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "vlmprof_dense"


def dense_experts(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The weighted sum of the selected experts.

    Args:
        experts: Module with ``gate_up_proj`` (experts, 2 * width, hidden) and ``down_proj`` (experts, hidden, width).
        hidden: (tokens, hidden).
        top_k_index: (tokens, k), the selected experts.
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
    """Register ``dense_experts`` under ``NAME`` for ``set_experts_implementation``."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, dense_experts)
