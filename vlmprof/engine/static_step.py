"""One decode step on memory that never moves: the unit that is run over and over, or captured once and replayed.

Everything that changes from step to step is a tensor that the step itself advances: the tokens it feeds back, their
positions, the mask, the place in the cache. So running it again needs nothing from the host. It is plain torch and
runs on a CPU too, where it is tested; a CUDA graph only records it.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vlmprof.decoding import StaticDecode, StepInputs
from vlmprof.engine.static_cache import CacheShape, fixed_cache
from vlmprof.errors import ModelError


@final
class StaticStep:
    """The step of one model at one batch size and cache length."""

    def __init__(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> None:
        """Take the memory.

        Args:
            model: The token maker.
            like: Inputs of some batch, whose types and trailing shapes this step's inputs will have.
            shape: Batch size and cache length.
            filled: A cache of that shape which a prompt has filled, over memory that stays.
        """
        self.model, self.shape = model, shape
        device, batch = like.ids.device, shape.batch
        self.ids = torch.zeros(batch, 1, dtype=like.ids.dtype, device=device)
        places = (*like.positions.shape[:-2], batch, 1)
        self.positions = torch.zeros(places, dtype=like.positions.dtype, device=device)
        self.mask = torch.zeros(batch, 1, 1, shape.length, dtype=torch.bool, device=device)
        self.constants = {name: _room(name, value, like.ids.shape[0], batch) for name, value in like.constants.items()}
        self.cursor = torch.zeros(1, dtype=torch.long, device=device)
        self.said = torch.zeros(shape.length, batch, dtype=like.ids.dtype, device=device)
        self.count = torch.zeros(1, dtype=torch.long, device=device)
        self.cache = fixed_cache(filled, self.cursor)
        self._columns = torch.arange(shape.length, device=device).view(1, 1, 1, -1)

    def load(self, inputs: StepInputs) -> None:
        """Go on with a batch whose prompt is in the cache, of at most this step's size; rows left over are ignored."""
        rows, tokens = inputs.mask.shape
        self.ids[:rows].copy_(inputs.ids)
        self.positions[..., :rows, :].copy_(inputs.positions)
        self.mask.zero_()
        self.mask[:rows, 0, 0, :tokens].copy_(inputs.mask)
        self.cursor.fill_(tokens)
        self.count.zero_()
        for name, value in inputs.constants.items():
            if isinstance(value, Tensor):
                self.constants[name][:rows].copy_(value)

    def run(self) -> None:
        """Make one token a row. No value is read by the host, so that a CUDA graph can record it."""
        torch.logical_or(self.mask, self._columns == self.cursor, out=self.mask)
        logits = self.model.next_logits(self.ids, self.positions, self.mask, self.cache, self.constants)
        said = logits.argmax(-1)
        self.said.index_copy_(0, self.count, said[None].to(self.said.dtype))
        self.ids.copy_(said[:, None])
        self.positions.add_(1)
        self.cursor.add_(1)
        self.count.add_(1)

    def rehearse(self) -> None:
        """Run without a batch. The prompt is in the cache already: only the last place, written last, is used."""
        self.mask.zero_()
        self.positions.zero_()
        self.count.zero_()
        self.cursor.fill_(self.shape.length - 1)
        self.run()


def _room(name: str, value: Any, rows: int, batch: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 or value.shape[0] != rows:
        raise ModelError(
            f"the decode step takes '{name}' of shape {tuple(value.shape)}, which is not one entry a row of {rows}:"
            " it cannot be repeated on fixed memory; use engine: eager"
        )
    return torch.zeros((batch, *value.shape[1:]), dtype=value.dtype, device=value.device)


def settings_of(model: StaticDecode) -> tuple[Any, ...]:
    """What of a model a recorded step depends on: its blocks, its routing. Another setting is another recording."""
    routing = tuple((router.top_k, getattr(router, "norm_topk_prob", None)) for router in model.routers)
    return tuple(id(block) for block in model.decoder.layers), routing
