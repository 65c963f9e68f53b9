"""Floating-point operations of a stretch of work, counted from what torch really dispatches.

torch's ``FlopCounterMode`` counts an operation it has no formula for as zero, without a word. Two that these models
live on have none: the grouped product of the experts, and the CPU's fused attention. Their formulas are here; a test
looks for any further contraction of a model that would be counted as nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = tuple[int, ...]


def count_flops(work: Callable[[], object]) -> int:
    """FLOP of ``work()``; a multiplication and an addition are two, element-wise operations are not counted."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def grouped_product_flops(left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    """FLOP of ``aten::_grouped_mm``: every row meets the matrix of its one group.

    (m, k) x (groups, k, n) and (groups, m, k) x (groups, k, n) give 2 k n for each row of ``left``; where the groups
    split the inner side, (m, k) x (k, n), or the columns, (groups, m, k) x (k, n), it is 2 m k n all the same.
    """
    rows = left[0] * left[1] if len(left) == len(right) == 3 else left[-2]
    return 2 * rows * left[-1] * right[-1]


def cpu_attention_flops(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """FLOP of the CPU's fused attention, by torch's own formula for the others."""
    count: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # torch types it not
    return count


FORMULAS: dict[Any, Any] = {
    torch.ops.aten._grouped_mm: grouped_product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops,
}
