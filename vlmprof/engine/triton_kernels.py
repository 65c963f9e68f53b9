"""Two Triton kernels for one token a row: attention over a masked cache, and rows times gathered matrices.

The kernels of torch and transformers are made for many tokens a row. With one, attention has to split the cache over
the whole GPU and must not read masked positions; and a token's experts are read once, in place, instead of being
copied together first. Imported on a GPU only, since Triton needs one. Sources: the split with running maximum and sum
is that of Milakov and Gimelshein 2018 ("Online normalizer calculation for softmax") as used by Flash-Decoding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS = 64
"""Keys that a program reads at a time."""
PROGRAMS = 1056
"""Eight for each of the 132 multiprocessors of an H100 or H200: enough loads in flight to saturate memory bandwidth."""
COLUMNS, INNER = 16, 256
"""Rows of a matrix that a program multiplies, and how many of the matrix's columns it reads at a time."""


# fmt: off
@triton.jit
def _attend_part(
    query, keys, values, mask, sums, maxima, weights,
    scale, heads, groups, length, span, query_row, query_head,
    key_row, key_head, key_position, value_row, value_head, value_position, mask_row,
    SIZE: tl.constexpr, STEP: tl.constexpr,
):
    # fmt: on
    # One program attends to one part of the cache of one (row, head) pair; _attend_combine adds the parts up.
    pair, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row, head = pair // heads, pair % heads
    inner = tl.arange(0, SIZE)
    scaled_query = tl.load(query + row * query_row + head * query_head + inner).to(tl.float32) * scale
    keys += row.to(tl.int64) * key_row + (head // groups) * key_head
    values += row.to(tl.int64) * value_row + (head // groups) * value_head
    maximum, weight = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
    total = tl.zeros([SIZE], dtype=tl.float32)
    begin = part * span
    for start in range(begin, tl.minimum(begin + span, length), STEP):
        position = start + tl.arange(0, STEP)
        inside = position < tl.minimum(begin + span, length)
        visible = (tl.load(mask + row * mask_row + position, mask=inside, other=0) != 0) & inside
        # Masked positions are not loaded: the unused end of a long cache costs nothing.
        key = tl.load(keys + position[:, None] * key_position + inner[None, :], mask=visible[:, None], other=0.0)
        value = tl.load(values + position[:, None] * value_position + inner[None, :], mask=visible[:, None], other=0.0)
        score = tl.sum(key.to(tl.float32) * scaled_query[None, :], axis=1)
        score = tl.where(visible, score, -float("inf"))
        new_maximum = tl.maximum(maximum, tl.max(score, axis=0))
        base = tl.where(new_maximum == -float("inf"), 0.0, new_maximum)
        probability = tl.exp(score - base)
        rescale = tl.exp(maximum - base)
        total = total * rescale + tl.sum(probability[:, None] * value.to(tl.float32), axis=0)
        weight = weight * rescale + tl.sum(probability, axis=0)
        maximum = new_maximum
    slot = pair * parts + part
    tl.store(sums + slot * SIZE + inner, total)
    tl.store(maxima + slot, maximum)
    tl.store(weights + slot, weight)


# fmt: off
@triton.jit
def _attend_combine(
    sums, maxima, weights, out, parts, SIZE: tl.constexpr, PARTS: tl.constexpr
):
    # fmt: on
    pair = tl.program_id(0)
    inner, part = tl.arange(0, SIZE), tl.arange(0, PARTS)
    valid = part < parts
    maximum = tl.load(maxima + pair * parts + part, mask=valid, other=-float("inf"))
    rescale = tl.exp(maximum - tl.max(maximum, axis=0))
    weight = tl.sum(rescale * tl.load(weights + pair * parts + part, mask=valid, other=0.0), axis=0)
    total = tl.load(sums + (pair * parts + part)[:, None] * SIZE + inner[None, :], mask=valid[:, None], other=0.0)
    tl.store(out + pair * SIZE + inner, (tl.sum(total * rescale[:, None], axis=0) / weight).to(out.dtype.element_ty))


# fmt: off
@triton.jit
def _gathered(
    rows, matrices, chosen, out, share, width, depth, row_stride, matrix_stride,
    COLUMNS: tl.constexpr, INNER: tl.constexpr,
):
    # fmt: on
    column, pair = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1)
    matrix = tl.load(chosen + pair).to(tl.int64)
    matrices += matrix * matrix_stride
    rows += (pair // share) * row_stride
    inside = column < width
    total = tl.zeros([COLUMNS, INNER], dtype=tl.float32)
    for start in range(0, depth, INNER):
        inner = start + tl.arange(0, INNER)
        valid = inner < depth
        row_part = tl.load(rows + inner, mask=valid, other=0.0).to(tl.float32)
        tile = tl.load(
            matrices + column[:, None] * depth + inner[None, :], mask=inside[:, None] & valid[None, :], other=0.0
        )
        total += tile.to(tl.float32) * row_part[None, :]
    tl.store(out + pair * width + column, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=inside)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one query a row over a masked cache.

    Args:
        query: (batch, heads, 1, size), size a power of two.
        keys: (batch, key heads, length, size), the last axis contiguous; ``heads`` is a multiple of ``key heads``.
        values: As ``keys``.
        mask: (batch, 1, 1, length), bool; True at the keys that are attended to, at least one in every row.
        scale: Factor of the scores.

    Returns:
        (batch, heads, 1, size) in the dtype of ``query``.
    """
    batch, heads, _, size = query.shape
    length, pairs = keys.shape[2], batch * heads
    parts = max(1, min(triton.cdiv(length, KEYS), triton.cdiv(PROGRAMS, pairs)))
    span = triton.cdiv(triton.cdiv(length, parts), KEYS) * KEYS
    parts = triton.cdiv(length, span)
    sums = torch.empty(pairs, parts, size, dtype=torch.float32, device=query.device)
    maxima = torch.empty(pairs, parts, dtype=torch.float32, device=query.device)
    weights = torch.empty_like(maxima)
    out = torch.empty(batch, heads, 1, size, dtype=query.dtype, device=query.device)
    _attend_part[(pairs, parts)](
        query, keys, values, mask.view(torch.uint8), sums, maxima, weights,
        scale, heads, heads // keys.shape[1], length, span, query.stride(0), query.stride(1),
        keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0), values.stride(1), values.stride(2),
        mask.stride(0), SIZE=size, STEP=KEYS, num_warps=4, num_stages=3,
    )  # fmt: skip
    padded_parts = triton.next_power_of_2(parts)
    _attend_combine[(pairs,)](sums, maxima, weights, out, parts, SIZE=size, PARTS=padded_parts, num_warps=4)
    return out


def gathered_product(rows: Tensor, matrices: Tensor, chosen: Tensor, share: int) -> Tensor:
    """Each pair's row times the transpose of the matrix chosen for it.

    Args:
        rows: (pairs / share, depth), contiguous.
        matrices: (count, width, depth), contiguous.
        chosen: (pairs,) index of each pair's matrix.
        share: How many consecutive pairs use the same row.

    Returns:
        (pairs, width)
    """
    pairs, (_, width, depth) = len(chosen), matrices.shape
    out = torch.empty(pairs, width, dtype=rows.dtype, device=rows.device)
    _gathered[(triton.cdiv(width, COLUMNS), pairs)](
        rows, matrices, chosen, out, share, width, depth, rows.stride(0), matrices.stride(0),
        COLUMNS=COLUMNS, INNER=INNER, num_warps=4, num_stages=4,
    )  # fmt: skip
    return out
