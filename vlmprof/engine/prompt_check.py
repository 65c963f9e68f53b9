"""Checks that recorded prompts compute what the same prompts compute when they are launched from Python.

A recording that replays a stale picture, the features of another batch or a prompt of another length still returns
logits, and in the usual time. So each timed request is held against the model's own vision side and prefill once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlmprof.engine.base import AbstractEngine
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import Mismatch
from vlmprof.records import Prompt

ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""The largest distance of logits, by the precision of the weights: what fused kernels may round differently."""


@torch.inference_mode()
def prompt_distance(
    engine: AbstractEngine, model: Any, requests: Sequence[Sequence[Prompt]], max_new_tokens: int
) -> float | None:
    """The largest distance of recorded logits from those of the model's own prefill, over all rows of all requests.

    The distance of a row is the norm of the difference, as a share of the norm of the model's own logits less their
    mean.

    Returns:
        None where nothing of a prompt is recorded.

    Raises:
        Mismatch: it is larger than rounding explains.
    """
    if not isinstance(engine, StaticEngine):
        return None
    largest = None
    for number, prompts in enumerate(requests):
        batch = model.transfer(model.encode(prompts))
        recorded = engine.recorded_logits(model, batch, max_new_tokens)
        if recorded is None:
            return None
        own = model.prefill(batch, model.see(batch), max_new_tokens).logits
        spread = (own - own.mean(-1, keepdim=True)).float().norm(dim=-1)
        distance = float(((recorded.float() - own.float()).norm(dim=-1) / spread).nan_to_num(0.0).max())
        allowed = ALLOWED.get(own.dtype, ALLOWED[torch.bfloat16])
        if distance > allowed:
            raise Mismatch(
                f"recorded, timed request {number} gives logits that are {distance:.1%} away from those of the model's"
                f" own prefill, where {allowed:.1%} is allowed; a recording replays something else than the request"
            )
        largest = max(distance, largest or 0.0)
    return largest
