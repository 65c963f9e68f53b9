"""Floating-point operations of some work, counted from what torch really dispatches.

torch's ``FlopCounterMode`` silently counts an operation that it has no formula for as zero, and some of its formulas
refuse what the kernel accepts: grouped-query attention in some versions, another size of values. So the formulas of all
fused attentions and of the grouped product of experts are here; a test looks for any other contraction of a model that
would be counted as zero. A formula that fails does not fail the work: the count is then unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, final

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vlmprof.measure.attempt import reason
from vlmprof.records import Stage

Shape = tuple[int, ...]


@final
class OperationClock:
    """A ``Clock`` that counts operations instead of time: FLOP by stage, from one generation.

    Use it inside ``with clock.counting():``. Replays of a captured graph are not dispatched and so not counted.
    """

    def __init__(self) -> None:
        self.by_stage: dict[Stage, int] = {}
        self._failures: list[str] = []
        self._counter = FlopCounterMode(display=False, custom_mapping=_guarded_formulas(self._failures))
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
        """End counting a generation.

        Raises:
            ValueError: an operation could not be counted.
        """
        _require_counted(self._failures)


def count_flops_by_stage(work: Callable[[OperationClock], object]) -> dict[Stage, int]:
    """FLOP of each stage of the generation that ``work`` runs with the clock that it is given.

    A multiplication and an addition are two, element-wise operations are not counted.

    Raises:
        ValueError: an operation could not be counted.
    """
    clock = OperationClock()
    with clock.counting():
        work(clock)
    return clock.by_stage


def _guarded_formulas(failures: list[str]) -> dict[Any, Any]:
    """All formulas, ours instead of torch's, none of which raises: what fails is added to ``failures``."""
    return {operation: _guarded(operation, formula, failures) for operation, formula in _all_formulas().items()}


def _guarded(operation: Any, formula: Callable[..., int], failures: list[str]) -> Callable[..., int]:
    @wraps(formula)
    def count(*args: Any, **kwargs: Any) -> int:
        try:
            return int(formula(*args, **kwargs))
        except Exception as error:  # a formula of another version of torch may raise anything
            failures.append(f"{operation}: {reason(error)}")
            return 0

    count._get_raw = True  # type: ignore[attr-defined]  # torch then passes the tensors themselves
    return count


def _require_counted(failures: Sequence[str]) -> None:
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise ValueError(f"an operation could not be counted: {failures[0]}{more}")


def grouped_product_flops(left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    """FLOP of ``aten::_grouped_mm``: every row is multiplied by the matrix of its one group.

    (m, k) x (groups, k, n) and (groups, m, k) x (groups, k, n) give 2 k n for each row of ``left``; where the groups
    split the inner axis, (m, k) x (k, n), or the columns, (groups, m, k) x (k, n), it is 2 m k n as well.
    """
    rows = left[0] * left[1] if len(left) == len(right) == 3 else left[-2]
    return 2 * rows * left[-1] * right[-1]


def attention_flops(query: Shape, key: Shape, value: Shape) -> int:
    """FLOP of attention: the products of queries with keys, and of their weights with values, causal or not.

    Args:
        query: (batch, heads, queries, size)
        key: (batch, key heads, keys, size); each key head serves several heads of queries.
        value: (batch, key heads, keys, size of a value)

    Raises:
        ValueError: these are not the shapes of one attention.
    """
    batch, heads, queries, size = query
    key_batch, key_heads, keys, key_size = key
    fits = (key_batch, key_size) == (batch, size) and key_heads and heads % key_heads == 0
    if not fits or (value[0], value[2]) != (batch, keys):
        raise ValueError(f"no attention has queries {query}, keys {key} and values {value}")
    return 2 * batch * heads * queries * keys * (size + value[-1])


def _heads_first(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """For kernels on (batch, heads, tokens, size)."""
    return attention_flops(tuple(query.shape), tuple(key.shape), tuple(value.shape))


def _flash_forward(
    query: Any, key: Any, value: Any, cum_seq_q: Any = None, cum_seq_k: Any = None, *args: Any, **kwargs: Any
) -> int:
    return _tokens_first(query, key, value, cum_seq_q, cum_seq_k)


def _flash_forward_inplace(
    out: Any, query: Any, key: Any, value: Any, cum_seq_q: Any = None, cum_seq_k: Any = None, *args: Any, **kwargs: Any
) -> int:
    return _tokens_first(query, key, value, cum_seq_q, cum_seq_k)


def _efficient_forward(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    *args: Any,
    **kwargs: Any,
) -> int:
    return _tokens_first(query, key, value, cu_seqlens_q, cu_seqlens_k)


def _cudnn_forward(
    query: Any,
    key: Any,
    value: Any,
    attn_bias: Any = None,
    cum_seq_q: Any = None,
    cum_seq_k: Any = None,
    *args: Any,
    **kwargs: Any,
) -> int:
    if cum_seq_q is None:
        return _heads_first(query, key, value)
    return _tokens_first(query, key, value, cum_seq_q, cum_seq_k)


def _tokens_first(query: Any, key: Any, value: Any, starts_q: Any, starts_k: Any) -> int:
    """For kernels on (batch, tokens, heads, size), or on sequences of several lengths one after another.

    Args:
        query: (batch, queries, heads, size), or with ``starts_q`` (all queries, heads, size), with or without a batch
            axis of one.
        key: The same of the keys.
        value: The same of the values.
        starts_q: (sequences + 1,) where each sequence of queries starts; None: all are equally long.
        starts_k: The same of the keys; None: those of the queries.
    """
    heads, size = query.shape[-2:]
    key_heads, value_size = key.shape[-2], value.shape[-1]
    if starts_q is None:
        batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        shapes = [(batch, queries, keys)]
    else:
        starts_k = starts_q if starts_k is None else starts_k
        lengths = zip(starts_q.diff().tolist(), starts_k.diff().tolist(), strict=True)
        shapes = [(1, queries, keys) for queries, keys in lengths]
    return sum(
        attention_flops(
            (batch, heads, queries, size), (batch, key_heads, keys, size), (batch, key_heads, keys, value_size)
        )
        for batch, queries, keys in shapes
    )


def _multi_head(query: Any, key: Any, value: Any, embed_dim: int, num_head: int, *args: Any, **kwargs: Any) -> int:
    """``aten::_native_multi_head_attention`` on (batch, tokens, width): four projections and the attention."""
    batch, tokens, width = query.shape
    shape = (batch, num_head, tokens, embed_dim // num_head)
    projections: int = 2 * batch * tokens * width * 4 * embed_dim
    return projections + attention_flops(shape, shape, shape)


def _grouped_product(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    return grouped_product_flops(tuple(left.shape), tuple(right.shape))


_BY_NAME: dict[str, Callable[..., int]] = {
    "_grouped_mm": _grouped_product,
    "_scaled_dot_product_flash_attention": _heads_first,
    "_scaled_dot_product_flash_attention_for_cpu": _heads_first,
    "_scaled_dot_product_efficient_attention": _heads_first,
    "_scaled_dot_product_cudnn_attention": _heads_first,
    "_scaled_dot_product_fused_attention_overrideable": _heads_first,
    "_scaled_dot_product_attention_math_for_mps": _heads_first,
    "_triton_scaled_dot_attention": _heads_first,
    "_flash_attention_forward": _flash_forward,
    "_flash_attention_forward_no_dropout_inplace": _flash_forward_inplace,
    "_efficient_attention_forward": _efficient_forward,
    "_cudnn_attention_forward": _cudnn_forward,
    "_native_multi_head_attention": _multi_head,
    "_triton_multi_head_attention": _multi_head,
}
FORMULAS: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, name): formula for name, formula in _BY_NAME.items() if hasattr(torch.ops.aten, name)
}
"""Operation -> its formula on the operation's own arguments, for the operations that this version of torch has."""


def _all_formulas() -> dict[Any, Callable[..., int]]:
    """Torch's formulas, and ours in their place."""
    return {**flop_registry, **FORMULAS}
