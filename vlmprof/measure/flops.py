"""Floating-point operations of some work, counted from what torch really dispatches.

torch's ``FlopCounterMode`` silently counts an operation that it has no formula for as zero. Two that these models
depend on have none: the grouped product of the experts, and the CPU's fused attention. Their formulas are here; a test
looks for any other contraction of a model that would be counted as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vlmprof.records import Stage

Shape = tuple[int, ...]


def count_flops(work: Callable[[], object]) -> int:
    """FLOP of ``work()``; a multiplication and an addition are two, element-wise operations are not counted."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


@final
class OperationClock:
    """A ``Clock`` that counts operations instead of time: FLOP by stage, from one generation.

    Use it inside ``with clock.counting():``. Replays of a captured graph are not dispatched and so not counted.
    """

    def __init__(self) -> None:
        self.by_stage: dict[Stage, int] = {}
        self._counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._before = 0

    def counting(self) -> FlopCounterMode:
        """The context manager inside which operations are counted."""
        return self._counter

    def start(self) -> None:
        """Start counting a generation."""
        self.by_stage, self._before = {}, self._counter.get_total_flops()

    def mark(self, stage: Stage) -> None:
        """Assign the operations dispatched since the last mark to ``stage``."""
        total = self._counter.get_total_flops()
        self.by_stage[stage] = self.by_stage.get(stage, 0) + total - self._before
        self._before = total

    def stop(self) -> None:
        """Nothing is timed."""


def grouped_product_flops(left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    """FLOP of ``aten::_grouped_mm``: every row is multiplied by the matrix of its one group.

    (m, k) x (groups, k, n) and (groups, m, k) x (groups, k, n) give 2 k n for each row of ``left``; where the groups
    split the inner axis, (m, k) x (k, n), or the columns, (groups, m, k) x (k, n), it is 2 m k n as well.
    """
    rows = left[0] * left[1] if len(left) == len(right) == 3 else left[-2]
    return 2 * rows * left[-1] * right[-1]


def cpu_attention_flops(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """FLOP of the CPU's fused attention, by torch's own formula for the other attention kernels."""
    count: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # untyped in torch
    return count


FORMULAS: dict[Any, Any] = {
    torch.ops.aten._grouped_mm: grouped_product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops,
}
