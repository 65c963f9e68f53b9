"""The decode step of any model of transformers as a function of a few tensors, for engines on fixed memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlmprof.errors import ModelError
from vlmprof.fixed_steps import StepInputs

CHANGING = ("input_ids", "position_ids", "attention_mask", "past_key_values")
"""What differs from one decode step to the next; all else that the library prepares for one holds for all."""


def step_inputs(model: Any, ids: Tensor, next_tokens: Tensor, carried: Mapping[str, Any]) -> StepInputs:
    """What the next decode step takes, as the library itself would prepare it.

    Args:
        model: The library's.
        ids: (batch, tokens) prompt and answer so far.
        next_tokens: (batch,) the greedy choice that is fed next.
        carried: What the library hands from one forward to the next.

    Raises:
        ModelError: the library leaves the positions to the model's own memory.
    """
    whole = torch.cat([ids, next_tokens[:, None]], dim=1)
    inputs = model.prepare_inputs_for_generation(whole, next_sequence_length=1, **carried)
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if positions is None:
        raise ModelError(f"{type(model).__name__} is given no positions for its decode step; use engine: eager")
    cached = ids.shape[1]
    return StepInputs(
        ids=inputs["input_ids"],
        positions=positions,
        mask=ids.new_ones(len(ids), cached) if mask is None else mask[:, :cached],
        constants={name: value for name, value in inputs.items() if name not in CHANGING and value is not None},
    )
