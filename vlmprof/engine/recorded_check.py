"""Checks that what is recorded computes what the model computes when it is launched from Python.

A recording that replays a stale picture, the features of another batch, a prompt of another length or a block that
writes to another's cache still returns logits, and in the usual time. So the prompt of each timed request and its first
decode step are held against the model's own, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprof.engine.base import AbstractEngine
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import Mismatch
from vlmprof.records import Prompt

ALLOWED = {torch.float32: 0.01, torch.bfloat16: 0.2, torch.float16: 0.1}
"""The largest distance of logits, by the precision of the weights. On an H200, recorded decode steps of MolmoE-1B's
sizes in bf16 are 0.005 to 0.01 away and compiled blocks 0.013 to 0.025; where two experts are nearly equal, another
rounding may choose the other one. The picture of another sample moves the logits of the demo by 0.36 to 2.2."""


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
    largest = 0.0
    compared = {len(requests) - 1 - round(part * len(requests) / most) for part in range(most)}
    for number, prompts in enumerate(requests):
        batch = model.transfer(model.encode(prompts))
        recorded = engine.recorded_logits(model, batch, max_new_tokens)
        if recorded is None:
            return None
        if number not in compared:
            continue
        state = model.prefill(batch, model.see(batch), max_new_tokens)
        largest = max(largest, _require_close(recorded[0], state.logits, f"the prompt of timed request {number}"))
        # A row whose first token another rounding changed takes another step.
        same = recorded[0].argmax(-1) == state.next_tokens
        if recorded[1] is not None and bool(same.any()):
            own, ours = model.step(state).logits[same], recorded[1][: len(same)][same]
            largest = max(largest, _require_close(ours, own, f"the first decode step of timed request {number}"))
    return largest


def _require_close(recorded: Tensor, own: Tensor, what: str) -> float:
    """The distance of logits, (rows, vocabulary) each.

    Raises:
        Mismatch: it is larger than rounding explains.
    """
    spread = (own - own.mean(-1, keepdim=True)).float().norm(dim=-1)
    distance = float(((recorded.float() - own.float()).norm(dim=-1) / spread).nan_to_num(0.0).max())
    allowed = ALLOWED.get(own.dtype, ALLOWED[torch.bfloat16])
    if distance > allowed:
        raise Mismatch(
            f"recorded, {what} gives logits that are {distance:.1%} away from those of the model's own forward, where"
            f" {allowed:.1%} is allowed; the recording computes something else"
        )
    return distance
