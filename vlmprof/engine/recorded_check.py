"""Checks that what is recorded computes what the model computes when it is launched from Python.

A recording that replays a stale picture, the features of another batch, a prompt of another length or a block that
writes to another's cache still returns logits, and in the usual time. So the prompt of each timed request and its first
decode step are held against the model's own, once.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from vlmprof.engine.base import AbstractEngine
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import Mismatch
from vlmprof.records import Prompt

ALLOWED = {torch.float32: 0.01, torch.bfloat16: 0.2, torch.float16: 0.1}
"""The largest distance of logits, by the precision of the weights. On an H200, recorded decode steps of MolmoE-1B's
sizes in bf16 are 0.005 to 0.01 away and compiled blocks 0.013 to 0.025. The picture of another sample moves the logits
of the demo by 0.36 to 2.2."""
SINGLE = {torch.float32: 1.0, torch.bfloat16: 3.0, torch.float16: 3.0}
"""How many times as far a single prompt may be if the median is not: where two experts are nearly equal, another
rounding chooses the other one, which in bf16 moved the logits of Qwen3-VL's widths by 0.11 and of a tiny model of eight
experts by 0.22. What is wrong with a recording is wrong for every prompt but the one that it was made with."""


@torch.inference_mode()
def recorded_distance(
    engine: AbstractEngine, model: Any, requests: Sequence[Sequence[Prompt]], max_new_tokens: int, most: int = 4
) -> float | None:
    """Record all requests; the largest distance of recorded logits from those of the model's own forwards.

    The distance of a row is the norm of the difference, as a share of the norm of the model's own logits less their
    mean. A buffer that is not filled shows in any two requests, so a few are compared.

    Args:
        engine: Records them.
        model: The ``TokenMaker``.
        requests: Batches of prompts.
        max_new_tokens: The longest answer for which they are recorded.
        most: Requests that are compared, evenly over all, the last one included.

    Returns:
        None where nothing is recorded.

    Raises:
        Mismatch: it is larger than rounding explains.
    """
    if not isinstance(engine, StaticEngine):
        return None
    prompt, step = _Distances("the prompt"), _Distances("the first decode step")
    compared = {len(requests) - 1 - round(part * len(requests) / most) for part in range(most)}
    for number, prompts in enumerate(requests):
        batch = model.transfer(model.encode(prompts))
        recorded = engine.recorded_logits(model, batch, max_new_tokens)
        if recorded is None:
            return None
        if number not in compared:
            continue
        state = model.prefill(batch, model.see(batch), max_new_tokens)
        prompt.add(number, recorded[0], state.logits)
        # A row whose first token another rounding changed takes another step.
        same = recorded[0].argmax(-1) == state.next_tokens
        if recorded[1] is not None and bool(same.any()):
            step.add(number, recorded[1][: len(same)][same], model.step(state).logits[same])
    return max(prompt.require_small(), step.require_small())


@final
class _Distances:
    """The distances of one kind of logits, row by row."""

    def __init__(self, what: str) -> None:
        self._what, self._dtype = what, torch.float32
        self._rows: list[tuple[float, int]] = []
        """(distance, number of the request)"""

    def add(self, number: int, recorded: Tensor, own: Tensor) -> None:
        """Compare the logits of a request, (rows, vocabulary) each."""
        self._dtype = own.dtype if own.dtype in ALLOWED else torch.bfloat16
        spread = (own - own.mean(-1, keepdim=True)).float().norm(dim=-1)
        distances = ((recorded.float() - own.float()).norm(dim=-1) / spread).nan_to_num(0.0)
        self._rows += [(distance, number) for distance in distances.tolist()]

    def require_small(self) -> float:
        """The largest distance; 0 without any.

        Raises:
            Mismatch: the median, or one of them by far, is larger than rounding explains.
        """
        if not self._rows:
            return 0.0
        largest, number = max(self._rows)
        median = statistics.median(distance for distance, _ in self._rows)
        allowed = ALLOWED[self._dtype]
        if median > allowed or largest > SINGLE[self._dtype] * allowed:
            raise Mismatch(
                f"recorded, {self._what} of timed request {number} gives logits that are {largest:.1%} away from those"
                f" of the model's own forward, and the median of {len(self._rows)} is {median:.1%} away, where"
                f" {allowed:.1%} is allowed; the recording computes something else"
            )
        return largest
