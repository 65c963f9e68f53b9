"""The work of one request by stage, with the knobs and without them: what bounds the speed-up of each stage.

A stage that is limited by arithmetic can become faster by the ratio of its operations, a decode step, which reads all
of its weights and its cache for one token, by the ratio of its bytes. Operations are those that torch dispatches; the
bytes are the weights that a step must read at least (``measure.roofline``), and the cache that the prompt filled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, final

import torch
from transformers.cache_utils import Cache

from vlmprof.decoding import Mark, unmarked
from vlmprof.engine.base import EAGER, AbstractEngine, Decoding
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.errors import OutOfMemory
from vlmprof.measure.flops import count_flops_by_stage
from vlmprof.measure.roofline import least_decode_bytes
from vlmprof.models.family import AbstractModel
from vlmprof.records import ComparedWork, Prompt, StageWork


def compared_work(
    model: AbstractModel,
    configured: Callable[[], AbstractContextManager[None]],
    request: Sequence[Prompt],
    known: MutableMapping[Hashable, StageWork],
) -> ComparedWork | None:
    """The work of a request in the configuration, and without its knobs; None where the latter does not fit.

    Args:
        model: As loaded, without knobs.
        configured: Applies the knobs inside a ``with`` block.
        request: What is generated for.
        known: Work of the model without knobs, by request: counted once for all configurations of a loaded model.

    Raises:
        OutOfMemory: the configuration does not fit.
        ValueError: an operation could not be counted.
    """
    with configured():
        own = stage_work(model, request)
    key = tuple((prompt.text, prompt.picture.width, prompt.picture.height) for prompt in request)
    try:
        known[key] = known.get(key) or stage_work(model, request)
    except OutOfMemory:
        release()
        return None
    return ComparedWork(own=own, full=known[key])


def stage_work(model: AbstractModel, request: Sequence[Prompt]) -> StageWork:
    """The work of one request with the model as it is now.

    Raises:
        OutOfMemory: the request does not fit.
        ValueError: an operation could not be counted.
    """
    engine = _CacheBytes()
    run = partial(generate, model, request, max_new_tokens=1, stop_at_eos=False, engine=engine)
    flop = count_flops_by_stage(lambda clock: run(clock=clock))
    # Prompts of a batch go to unlike experts: how many of them a step reads is not known.
    shared_experts = bool(model.routers) and len(request) > 1
    return StageWork(
        vision_flop=flop.get("vision", 0) + flop.get("connector", 0),
        prefill_flop=flop.get("prefill", 0),
        decode_bytes=None if shared_experts else least_decode_bytes(model.decoder) + engine.cache_bytes,
    )


@final
class _CacheBytes(AbstractEngine):
    """The eager engine, which also notes the size of the cache after the prefill."""

    def __init__(self) -> None:
        self.cache_bytes = 0

    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        state = model.prefill(batch, features, max_new_tokens)
        self.cache_bytes = cache_bytes(state)
        return _Prefilled(first=state.next_tokens, finite=state.finite)

    def forget(self) -> None:
        """Nothing is kept."""

    def describe(self) -> dict[str, str]:
        return dict(EAGER.describe())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefilled:
    """A batch of which only the first token is wanted."""

    first: torch.Tensor
    finite: torch.Tensor

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> list[torch.Tensor]:
        return []


def cache_bytes(state: Any) -> int:
    """Bytes of the keys and values, or of whatever a block keeps in their place, in a ``DecodeState``.

    Raises:
        ValueError: the state has no cache of transformers.
    """
    caches = list(_caches(state))
    if not caches:
        raise ValueError(f"no key-value cache in {type(state).__name__}")
    tensors = [one for cache in caches for layer in cache.layers for one in vars(layer).values()]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def _caches(state: Any) -> Iterator[Cache]:
    values = [getattr(state, field.name) for field in fields(state)] if is_dataclass(state) else []
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return (value for value in values if isinstance(value, Cache))
