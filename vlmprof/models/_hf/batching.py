"""Batches for any model of transformers: collating prompts, holding vision features, and inputs of a decode step.

A processor that is given a whole batch may resize or pad an image differently because of its neighbours. So every
prompt is processed separately, with the budget of its own image, and collated here: sequences are padded on the left,
everything else at the end of each axis with zeros, as the processors do themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from vlmprof.decoding import StepInputs
from vlmprof.errors import ModelError

LEFT_PADDED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Inputs with one entry per token of the sequence."""

POOLING = "image_token_pooling"
"""Molmo2: indices of the patches that each vision token pools, counted over all crops of a batch; -1: no patch."""


def collate(rows: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Join processed prompts, each a batch of one, into one batch.

    Args:
        rows: The processor's output for every prompt; all have the same keys.
        pad_id: The padding of ``input_ids``; everything else is padded with 0.
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    joined = {}
    for name in rows[0]:
        tensors = [row[name] for row in rows]
        if name in LEFT_PADDED:
            fill = pad_id if name == "input_ids" else 0
            tensors = [torch.nn.functional.pad(t, (longest - t.shape[1], 0), value=fill) for t in tensors]
        if name == POOLING:
            tensors = _offset_patch_indices(tensors, [row["pixel_values"] for row in rows])
        joined[name] = torch.cat(_pad_to_same_shape(tensors))
    return joined


def _offset_patch_indices(windows: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """Make the patch indices of each prompt count over the whole batch.

    Args:
        windows: (tokens, patches per token) of each prompt; -1 stays -1.
        pixels: (crops, patches, pixels) of each prompt.
    """
    shifted, offset = [], 0
    for window, crops in zip(windows, pixels, strict=True):
        shifted.append(torch.where(window >= 0, window + offset, window))
        offset += crops.shape[0] * crops.shape[1]
    return shifted


def _pad_to_same_shape(tensors: Sequence[Tensor]) -> list[Tensor]:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [size - length for size, length in zip(sizes, tensor.shape[1:], strict=True)]
        padding = [edge for size in reversed(missing) for edge in (0, size)]
        padded.append(torch.nn.functional.pad(tensor, padding) if any(missing) else tensor)
    return padded


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Vision features of a batch; ``len`` is the number of feature vectors, one for each vision token."""

    output: Any
    """What ``get_image_features`` returned: pooled features, and for some models those of deeper layers."""
    inputs: Mapping[str, Tensor]
    """The whole batch on the device: transformers reads some inputs besides the features."""

    def __len__(self) -> int:
        """Number of feature vectors."""
        return sum(part.numel() // part.shape[-1] for part in _pooled(self.output))


def split_rows(inputs: Mapping[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    """Split a batch of ``rows`` prompts, each with one image, into batches of one."""
    return [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in range(rows)]


def join_features(parts: Sequence[Any]) -> Any:
    """Join what ``get_image_features`` returned for several batches of one, images in order."""
    output = parts[0]
    output.pooler_output = [image for part in parts for image in _pooled(part)]
    return output


def _pooled(output: Any) -> list[Tensor]:
    pooled = output.pooler_output
    return [pooled] if isinstance(pooled, torch.Tensor) else list(pooled)


PER_STEP_INPUTS = ("input_ids", "position_ids", "attention_mask", "past_key_values")
"""Inputs that differ between decode steps; everything else that transformers prepares is the same for every step."""


def step_inputs(model: Any, ids: Tensor, next_tokens: Tensor, carried: Mapping[str, Any]) -> StepInputs:
    """The inputs of the next decode step, as transformers itself prepares them.

    Args:
        model: The model of transformers.
        ids: (batch, tokens) prompt and answer so far.
        next_tokens: (batch,) the tokens that are fed next.
        carried: The keyword arguments that transformers passes from one forward to the next.

    Raises:
        ModelError: transformers prepares no positions, because the model keeps track of them itself.
    """
    extended = torch.cat([ids, next_tokens[:, None]], dim=1)
    inputs = model.prepare_inputs_for_generation(extended, next_sequence_length=1, **carried)
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if positions is None:
        raise ModelError(f"{type(model).__name__} prepares no positions for its decode step; use engine: eager")
    cached = ids.shape[1]
    return StepInputs(
        ids=inputs["input_ids"],
        positions=positions,
        mask=ids.new_ones(len(ids), cached) if mask is None else mask[:, :cached],
        constants={name: value for name, value in inputs.items() if name not in PER_STEP_INPUTS and value is not None},
    )
