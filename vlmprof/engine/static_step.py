"""One decode step on tensors at fixed addresses, which can be run repeatedly, or captured once and replayed.

Everything that changes from step to step is a tensor that the step itself updates: the tokens that are fed back, their
positions, the mask, the write position in the cache. So running it again needs nothing from the host. It is plain
torch and runs on a CPU too, where it is tested; a CUDA graph only records it.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vlmprof.decoding import StaticDecode, StepInputs
from vlmprof.engine.static_cache import CacheShape, static_cache
from vlmprof.errors import ModelError


@final
class StaticStep:
    """The step of one model at one batch size and cache length."""

    def __init__(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> None:
        """Allocate the tensors.

        Args:
            model: The ``TokenMaker``.
            like: Inputs of some batch, whose dtypes and trailing shapes this step's inputs will have.
            shape: Batch size and cache length.
            filled: A cache of that shape after a prefill, over memory that is not freed.

        Raises:
            ModelError: a constant input of the step is a tensor whose first axis is not the batch.
        """
        self.model, self.shape = model, shape
        device, batch = like.ids.device, shape.batch
        self.ids = torch.zeros(batch, 1, dtype=like.ids.dtype, device=device)
        positions_shape = (*like.positions.shape[:-2], batch, 1)
        self.positions = torch.zeros(positions_shape, dtype=like.positions.dtype, device=device)
        self.mask = torch.zeros(batch, 1, 1, shape.length, dtype=torch.bool, device=device)
        rows = like.ids.shape[0]
        self.constants = {name: _allocated(name, value, rows, batch) for name, value in like.constants.items()}
        self.cursor = torch.zeros(1, dtype=torch.long, device=device)
        self.generated = torch.zeros(shape.length, batch, dtype=like.ids.dtype, device=device)
        """(step, batch) the tokens that the steps have generated since ``load``."""
        self.finite = torch.ones(batch, dtype=torch.bool, device=device)
        """(batch,) whether the logits of each row were finite in all steps since ``load``."""
        self.logits: Tensor
        """(batch, vocabulary) of the last step, at one address once the step is recorded."""
        self.step_index = torch.zeros(1, dtype=torch.long, device=device)
        self.cache = static_cache(filled, self.cursor)
        self._columns = torch.arange(shape.length, device=device).view(1, 1, 1, -1)

    def load(self, inputs: StepInputs) -> None:
        """Copy in the inputs of a batch whose prompt is in the cache.

        The batch may have fewer rows than this step; the outputs of the other rows are to be ignored.
        """
        rows, tokens = inputs.mask.shape
        self.ids[:rows].copy_(inputs.ids)
        self.positions[..., :rows, :].copy_(inputs.positions)
        self.mask.zero_()
        self.mask[:rows, 0, 0, :tokens].copy_(inputs.mask)
        self.cursor.fill_(tokens)
        self.step_index.zero_()
        self.finite.fill_(True)
        for name, value in inputs.constants.items():
            if isinstance(value, Tensor):
                self.constants[name][:rows].copy_(value)

    def run(self) -> None:
        """Generate one token a row. The host reads no value, so that a CUDA graph can record it."""
        torch.logical_or(self.mask, self._columns == self.cursor, out=self.mask)
        logits = self.model.next_logits(self.ids, self.positions, self.mask, self.cache, self.constants)
        self.logits = logits
        self.finite.logical_and_(logits.isfinite().all(-1))
        tokens = logits.argmax(-1)
        self.generated.index_copy_(0, self.step_index, tokens[None].to(self.generated.dtype))
        self.ids.copy_(tokens[:, None])
        self.positions.add_(1)
        self.cursor.add_(1)
        self.step_index.add_(1)

    def warm_up(self) -> None:
        """Run without a batch. The prompt is in the cache already, so only the last position of the cache is written,
        which a batch needs last.
        """
        self.mask.zero_()
        self.positions.zero_()
        self.step_index.zero_()
        self.cursor.fill_(self.shape.length - 1)
        self.run()


def _allocated(name: str, value: Any, rows: int, batch: int) -> Any:
    """A tensor for a constant input at the step's batch size; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 or value.shape[0] != rows:
        raise ModelError(
            f"the decode step takes '{name}' of shape {tuple(value.shape)}; its first axis must be the batch, here"
            f" {rows}, for the step to be recorded; use engine: eager"
        )
    return torch.zeros((batch, *value.shape[1:]), dtype=value.dtype, device=value.device)


def settings_of(model: StaticDecode) -> tuple[Any, ...]:
    """The settings of a model that a recorded step depends on, for its key: the blocks and their routing."""
    routing = tuple((router.top_k, getattr(router, "norm_topk_prob", None)) for router in model.routers)
    return tuple(id(block) for block in model.decoder.layers), routing
