"""One training step: its losses, with shapes that depend on no tensor value, and its capture in CUDA graphs.

At these sizes a step consists of thousands of small kernels, and a GPU would wait for their launches most of the time.
Captured once for each bucket of scenes, a step is a single graph launch. On a CPU the same functions run
without graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmprof.demo.training.corpus import SceneBatch
from vlmprof.demo.training.heads import DenseHeads
from vlmprof.demo.training.labels import IGNORE
from vlmprof.demo.training.packing import answer_logits, image_features
from vlmprof.demo.training.recipe import Recipe
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

LOSSES: Final = ("dense", "answer", "balance", "concentration")
_WARM_UPS: Final = 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """Values that change from step to step, in tensors at fixed addresses, as CUDA graphs require."""

    gates: Tensor
    """(blocks,), 0 for a block that is skipped in this step, else 1."""
    rate: Tensor
    """(), the learning rate."""
    dense: Tensor
    """(), the weight of the dense loss."""

    @classmethod
    def on(cls, device: str, blocks: int) -> Controls:
        """Initial values: all blocks run, and the learning rate is 0."""
        return cls(
            gates=torch.ones(blocks, device=device),
            rate=torch.zeros((), device=device),
            dense=torch.ones((), device=device),
        )


def step_losses(
    model: MolmoForConditionalGeneration, heads: DenseHeads, batch: SceneBatch, controls: Controls, recipe: Recipe
) -> Tensor:
    """The weighted losses of a step of the joint stage, (4,) in the order of ``LOSSES``."""
    features = image_features(model, batch)
    with gated(model, controls.gates):
        packed = answer_logits(model, batch, features)
    answer = F.cross_entropy(packed.logits.flatten(0, 2), batch.targets.flatten().long(), ignore_index=IGNORE)
    dense = controls.dense * heads.loss(features, batch.labels.flatten(0, 1))
    probabilities = [logits.float().softmax(-1) for logits in packed.router_logits]
    top_k = model.config.text.num_experts_per_tok
    balance = recipe.balance_weight * torch.stack([imbalance(router, top_k) for router in probabilities]).mean()
    peaked = recipe.concentration_weight * torch.stack([concentration(router) for router in probabilities]).mean()
    return torch.stack([dense, answer, balance, peaked])


def vision_losses(
    model: MolmoForConditionalGeneration, heads: DenseHeads, batch: SceneBatch, controls: Controls
) -> Tensor:
    """The losses of a step of the vision stage, (4,) in the order of ``LOSSES``; all but the dense loss are 0."""
    dense = controls.dense * heads.loss(image_features(model, batch), batch.labels.flatten(0, 1))
    zero = torch.zeros_like(dense)
    return torch.stack([dense, zero, zero, zero])


def imbalance(probabilities: Tensor, top_k: int) -> Tensor:
    """How unevenly a router with probabilities (tokens, experts) distributes tokens: 1 for a uniform distribution.

    Source: Fedus, Zoph and Shazeer 2022, "Switch Transformers", equation 4, counting each of the top k.
    """
    selected = probabilities.topk(top_k, dim=-1).indices
    load = torch.zeros_like(probabilities).scatter(1, selected, 1.0 / top_k).mean(0)
    return probabilities.shape[-1] * (load * probabilities.mean(0)).sum()


def concentration(probabilities: Tensor) -> Tensor:
    """Maximum entropy minus the entropy of a router's probabilities (tokens, experts), in nats, mean over tokens.

    Without a penalty on it, a router puts nearly all weight on its first choice, and the other selected experts, which
    cost as much compute, contribute almost nothing.
    """
    entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(-1)
    return math.log(probabilities.shape[-1]) - entropy.mean()


@contextmanager
def gated(model: MolmoForConditionalGeneration, gates: Tensor) -> Iterator[None]:
    """Interpolate between each block's input (gate 0, the block is skipped) and its output (gate 1)."""

    def hook(gate: Tensor) -> Callable[[Any, Any, Any], Any]:
        return lambda block, inputs, output: inputs[0] + gate * (output - inputs[0])

    blocks: Any = model.decoder_layers
    handles = [block.register_forward_hook(hook(gates[i])) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def update_parameters(
    losses: Tensor, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, clip_norm: float
) -> None:
    """One optimizer step; gradients are written into the existing ``grad`` tensors, whose addresses do not change."""
    computed = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    buffers = [parameter.grad for parameter in parameters if parameter.grad is not None]
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, computed, strict=True)]
    torch._foreach_copy_(buffers, gradients)
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


@lru_cache(maxsize=1)
def _capture_stream() -> Any:
    """One stream for all captures: memory freed on one stream is not reused on another and would accumulate."""
    return torch.cuda.Stream()


@final
class CapturedStep:
    """A step on one bucket of scenes as a CUDA graph; ``replay`` runs it for any rows and ``Controls``.

    Args:
        losses: Rows -> losses, with shapes that depend on no tensor value.
        update: Updates ``parameters`` in place from the losses.
        parameters: The trained parameters.
        rows: (scenes,), an example of the argument of ``losses``.
        pool: Memory pool that all graphs share, because only one runs at a time.
    """

    def __init__(
        self,
        losses: Callable[[Tensor], Tensor],
        update: Callable[[Tensor], None],
        parameters: Sequence[Tensor],
        rows: Tensor,
        pool: Any,
    ) -> None:
        self._rows = rows.clone()
        self._graph = torch.cuda.CUDAGraph()
        stream = _capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # libraries create handles and select kernels; no parameter changes
                torch.autograd.grad(losses(self._rows).sum(), parameters, allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self._losses = losses(self._rows)
            update(self._losses)
            self._losses = self._losses.detach()

    def replay(self, rows: Tensor) -> Tensor:
        """Run the step on these scenes; returns the losses in a tensor that the next replay overwrites."""
        self._rows.copy_(rows)
        self._graph.replay()
        return self._losses
