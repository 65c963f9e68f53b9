"""One batch from prompts that were processed alone.

A processor that sees a whole batch may give an image another size, or another padding, because of its neighbours. So
every prompt is processed by itself, with the budget of its own image, and joined here: sequences padded on the left,
everything else padded at the end of each axis with the zeros that the processors use themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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
