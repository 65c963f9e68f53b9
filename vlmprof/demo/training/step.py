"""One training step: its losses in shapes that depend on no value, and the step held in CUDA graphs.

At these sizes a step is thousands of small kernels, and a GPU that is told of each of them waits most of the time.
Captured once for each bucket of scenes, a step is one launch. On a CPU the same function runs as it stands.
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
    """What changes from step to step, in tensors whose place in memory does not."""

    gates: Tensor
    """(blocks,), 0 for a block that is left out of this step."""
    rate: Tensor
    """() learning rate."""
    dense: Tensor
    """() weight of the dense loss."""

    @classmethod
    def on(cls, device: str, blocks: int) -> Controls:
        """Every block in, nothing learnt."""
        return cls(
            gates=torch.ones(blocks, device=device),
            rate=torch.zeros((), device=device),
            dense=torch.ones((), device=device),
        )


def step_losses(
    model: MolmoForConditionalGeneration, heads: DenseHeads, batch: SceneBatch, controls: Controls, recipe: Recipe
) -> Tensor:
    """The weighted losses of a step that answers questions, in the order of ``LOSSES``."""
    features = image_features(model, batch)
    with gated(model, controls.gates):
        packed = answer_logits(model, batch, features)
    answer = F.cross_entropy(packed.logits.flatten(0, 2), batch.targets.flatten().long(), ignore_index=IGNORE)
    dense = controls.dense * heads.loss(features, batch.labels.flatten(0, 1))
    probabilities = [logits.float().softmax(-1) for logits in packed.router_logits]
    top_k = model.config.text.num_experts_per_tok
    balance = recipe.balance_weight * torch.stack([imbalance(one, top_k) for one in probabilities]).mean()
    sharp = recipe.concentration_weight * torch.stack([concentration(one) for one in probabilities]).mean()
    return torch.stack([dense, answer, balance, sharp])


def vision_losses(
    model: MolmoForConditionalGeneration, heads: DenseHeads, batch: SceneBatch, controls: Controls
) -> Tensor:
    """Those of a step in which only the image side learns, in the order of ``LOSSES``."""
    dense = controls.dense * heads.loss(image_features(model, batch), batch.labels.flatten(0, 1))
    nothing = torch.zeros_like(dense)
    return torch.stack([dense, nothing, nothing, nothing])


def imbalance(probabilities: Tensor, top_k: int) -> Tensor:
    """How unevenly a router of (tokens, experts) spreads its tokens: 1 where all experts get the same.

    Source: Fedus, Zoph and Shazeer 2022, "Switch Transformers", equation 4, with each of the top k counted.
    """
    chosen = probabilities.topk(top_k, dim=-1).indices
    load = torch.zeros_like(probabilities).scatter(1, chosen, 1.0 / top_k).mean(0)
    return probabilities.shape[-1] * (load * probabilities.mean(0)).sum()


def concentration(probabilities: Tensor) -> Tensor:
    """Nats by which a router of (tokens, experts) is surer than chance, mean over tokens.

    Without a price on it, a router puts nearly all weight on its first choice, and the further experts, which cost as
    much, are for nothing.
    """
    entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(-1)
    return math.log(probabilities.shape[-1]) - entropy.mean()


@contextmanager
def gated(model: MolmoForConditionalGeneration, gates: Tensor) -> Iterator[None]:
    """Blend each block's output with its input: 1 runs the block, 0 leaves it out."""

    def hook(gate: Tensor) -> Callable[[Any, Any, Any], Any]:
        return lambda block, inputs, output: inputs[0] + gate * (output - inputs[0])

    blocks: Any = model.decoder_layers
    handles = [block.register_forward_hook(hook(gates[i])) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def learn(losses: Tensor, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """One update of the parameters; their gradients stay where they are in memory."""
    found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    new = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    torch._foreach_copy_(gradients, new)
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


@lru_cache(maxsize=1)
def _side_stream() -> Any:
    """The stream of all captures: memory that was freed on one stream serves no other, and would pile up."""
    return torch.cuda.Stream()


@final
class CapturedStep:
    """A step on one bucket of scenes as a CUDA graph: ``replay`` with other rows and controls launches nothing anew.

    Args:
        losses: rows -> losses, in shapes that depend on no value.
        update: losses -> nothing; changes ``parameters`` in place.
        parameters: What learns.
        rows: (scenes,) an example of what ``losses`` gets.
        pool: Memory that all graphs share, since only one runs at a time.
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
        stream = _side_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # libraries make their handles and choose their kernels; nothing is learnt
                torch.autograd.grad(losses(self._rows).sum(), parameters, allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self._losses = losses(self._rows)
            update(self._losses)
            self._losses = self._losses.detach()

    def replay(self, rows: Tensor) -> Tensor:
        """Take the step on these scenes; the losses, in memory that the next replay writes over."""
        self._rows.copy_(rows)
        self._graph.replay()
        return self._losses
