"""Batches for any model of transformers: prompts joined, vision features kept, and the decode step as a function.

A processor that sees a whole batch may give an image another size, or another padding, because of its neighbours. So
every prompt is processed by itself, with the budget of its own image, and joined here: sequences padded on the left,
everything else padded at the end of each axis with the zeros that the processors use themselves.
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
"""Inputs with an entry for every token of the sequence."""

POOLING = "image_token_pooling"
"""Molmo2: the patches behind each vision token, numbered through all crops of a batch; -1 is none."""


def collate(rows: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Join processed prompts, each a batch of one.

    Args:
        rows: What the processor made of every prompt; all have the same names.
        pad_id: Fills ``input_ids``; everything else is filled with 0.
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    joined = {}
    for name in rows[0]:
        tensors = [row[name] for row in rows]
        if name in LEFT_PADDED:
            fill = pad_id if name == "input_ids" else 0
            tensors = [torch.nn.functional.pad(t, (longest - t.shape[1], 0), value=fill) for t in tensors]
        if name == POOLING:
            tensors = _renumbered(tensors, [row["pixel_values"] for row in rows])
        joined[name] = torch.cat(_same_shape(tensors))
    return joined


def _renumbered(windows: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """(tokens, patches a token) each, moved behind the (crops, patches, pixels) of the prompts before."""
    moved, before = [], 0
    for window, crops in zip(windows, pixels, strict=True):
        moved.append(torch.where(window >= 0, window + before, window))
        before += crops.shape[0] * crops.shape[1]
    return moved


def _same_shape(tensors: Sequence[Tensor]) -> list[Tensor]:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [size - have for size, have in zip(sizes, tensor.shape[1:], strict=True)]
        ends = [edge for size in reversed(missing) for edge in (0, size)]
        padded.append(torch.nn.functional.pad(tensor, ends) if any(missing) else tensor)
    return padded


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """As long as the language model's places for it."""

    output: Any
    """What ``get_image_features`` returned: pooled features, and for some models those of deeper layers."""
    inputs: Mapping[str, Tensor]
    """The whole batch on the device: the library still asks for some of it beside the features."""

    def __len__(self) -> int:
        """Feature vectors, one for each vision token."""
        return sum(part.numel() // part.shape[-1] for part in _pooled(self.output))


def split_rows(inputs: Mapping[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    """A batch of ``rows`` prompts of one image each as that many batches of one."""
    return [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in range(rows)]


def join(parts: Sequence[Features], inputs: Mapping[str, Tensor]) -> Features:
    """The features of several batches of one as those of a whole, images in order."""
    output = parts[0].output
    output.pooler_output = [image for part in parts for image in _pooled(part.output)]
    return Features(output=output, inputs=inputs)


def _pooled(output: Any) -> list[Tensor]:
    pooled = output.pooler_output
    return [pooled] if isinstance(pooled, torch.Tensor) else list(pooled)


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
