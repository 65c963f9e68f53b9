"""Two small kernels for one token a row, in Triton: attention over a masked cache, and rows times gathered matrices.

The library's kernels are made for many tokens a row. With one, attention has to split the cache over the whole GPU and
must not read what the mask hides; and a token's experts are read once, in place, instead of being copied together
first. Imported on a GPU only: Triton compiles for it. Sources: the split with running maximum and sum is that of
Milakov and Gimelshein 2018 ("Online normalizer calculation for softmax") as used by Flash-Decoding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS = 64
"""Keys a program reads at a time."""
PROGRAMS = 1056
"""Eight for each of the 132 multiprocessors of an H100 or H200: enough loads in flight to fill the memory's width."""
COLUMNS, INNER = 16, 256
"""Rows of a matrix a program multiplies, and how many of its columns at a time."""


# fmt: off
@triton.jit
def _attend_part(
    query, keys, values, mask, sums, tops, weights,
    scale, heads, groups, length, span, query_row, query_head,
    key_row, key_head, key_place, value_row, value_head, value_place, mask_row,
    SIZE: tl.constexpr, STEP: tl.constexpr,
):
    # fmt: on
    pair, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row, head = pair // heads, pair % heads
    inner = tl.arange(0, SIZE)
    asked = tl.load(query + row * query_row + head * query_head + inner).to(tl.float32) * scale
    keys += row.to(tl.int64) * key_row + (head // groups) * key_head
    values += row.to(tl.int64) * value_row + (head // groups) * value_head
    top, weight = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
    total = tl.zeros([SIZE], dtype=tl.float32)
    begin = part * span
    for start in range(begin, tl.minimum(begin + span, length), STEP):
        place = start + tl.arange(0, STEP)
        inside = place < tl.minimum(begin + span, length)
        seen = (tl.load(mask + row * mask_row + place, mask=inside, other=0) != 0) & inside
        # What the mask hides is not loaded: a long empty cache costs nothing.
        key = tl.load(keys + place[:, None] * key_place + inner[None, :], mask=seen[:, None], other=0.0)
        value = tl.load(values + place[:, None] * value_place + inner[None, :], mask=seen[:, None], other=0.0)
        score = tl.sum(key.to(tl.float32) * asked[None, :], axis=1)
        score = tl.where(seen, score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, axis=0))
        base = tl.where(new_top == -float("inf"), 0.0, new_top)
        share = tl.exp(score - base)
        kept = tl.exp(top - base)
        total = total * kept + tl.sum(share[:, None] * value.to(tl.float32), axis=0)
        weight = weight * kept + tl.sum(share, axis=0)
        top = new_top
    slot = pair * parts + part
    tl.store(sums + slot * SIZE + inner, total)
    tl.store(tops + slot, top)
    tl.store(weights + slot, weight)


# fmt: off
@triton.jit
def _attend_whole(
    sums, tops, weights, out, parts, SIZE: tl.constexpr, PARTS: tl.constexpr
):
    # fmt: on
    pair = tl.program_id(0)
    inner, part = tl.arange(0, SIZE), tl.arange(0, PARTS)
    there = part < parts
    top = tl.load(tops + pair * parts + part, mask=there, other=-float("inf"))
    share = tl.exp(top - tl.max(top, axis=0))
    weight = tl.sum(share * tl.load(weights + pair * parts + part, mask=there, other=0.0), axis=0)
    total = tl.load(sums + (pair * parts + part)[:, None] * SIZE + inner[None, :], mask=there[:, None], other=0.0)
    tl.store(out + pair * SIZE + inner, (tl.sum(total * share[:, None], axis=0) / weight).to(out.dtype.element_ty))


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
        there = inner < depth
        part = tl.load(rows + inner, mask=there, other=0.0).to(tl.float32)
        tile = tl.load(
            matrices + column[:, None] * depth + inner[None, :], mask=inside[:, None] & there[None, :], other=0.0
        )
        total += tile.to(tl.float32) * part[None, :]
    tl.store(out + pair * width + column, tl.sum(total, axis=1).to(out.dtype.element_ty), mask=inside)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one query a row over a masked cache.

    Args:
        query: (batch, heads, 1, size), size a power of two.
        keys: (batch, key heads, length, size), the last axis dense; ``heads`` is a multiple of ``key heads``.
        values: likewise.
        mask: (batch, 1, 1, length), bool; every row sees at least one key.
        scale: Of the scores.

    Returns:
        (batch, heads, 1, size) in the type of ``query``.
    """
    batch, heads, _, size = query.shape
    length, pairs = keys.shape[2], batch * heads
    parts = max(1, min(triton.cdiv(length, KEYS), triton.cdiv(PROGRAMS, pairs)))
    span = triton.cdiv(triton.cdiv(length, parts), KEYS) * KEYS
    parts = triton.cdiv(length, span)
    sums = torch.empty(pairs, parts, size, dtype=torch.float32, device=query.device)
    tops = torch.empty(pairs, parts, dtype=torch.float32, device=query.device)
    weights = torch.empty_like(tops)
    out = torch.empty(batch, heads, 1, size, dtype=query.dtype, device=query.device)
    _attend_part[(pairs, parts)](
        query, keys, values, mask.view(torch.uint8), sums, tops, weights,
        scale, heads, heads // keys.shape[1], length, span, query.stride(0), query.stride(1),
        keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0), values.stride(1), values.stride(2),
        mask.stride(0), SIZE=size, STEP=KEYS, num_warps=4, num_stages=3,
    )  # fmt: skip
    whole = triton.next_power_of_2(parts)
    _attend_whole[(pairs,)](sums, tops, weights, out, parts, SIZE=size, PARTS=whole, num_warps=4)
    return out


def gathered_product(rows: Tensor, matrices: Tensor, chosen: Tensor, share: int) -> Tensor:
    """Each pair's row times the transpose of the matrix chosen for it.

    Args:
        rows: (pairs / share, depth), dense.
        matrices: (count, width, depth), dense.
        chosen: (pairs,) which matrix.
        share: Consecutive pairs that have one row.

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
