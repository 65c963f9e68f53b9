"""Packing: all questions of a scene in one sequence, so that the picture is encoded once.

The attention mask is block-diagonal over the questions, so that no question attends to another, and the positions of
each question start right after the picture. Hence all logits are those of the question in a sequence of its own (a test
compares them). Packing gives six or seven training samples per picture for little more than the cost of one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmprof.demo.training.corpus import Layout, SceneBatch, normalise
from vlmprof.demo.training.labels import IGNORE
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.tiling import Tiling
from vlmprof.tasks._shapes.questions import TYPES

# Added to masked attention scores: large enough for a weight of exactly 0, small enough to stay finite in bf16.
_MASKED: Final = -1e4
# Fused attention needs mask rows aligned to a multiple of this, otherwise it copies the mask in every block.
_ALIGNMENT: Final = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Output of the model for every token of every question."""

    logits: Tensor
    """(scenes, questions, tokens, vocabulary)."""
    router_logits: tuple[Tensor, ...]
    """For each block, (scenes x sequence, experts)."""


@lru_cache(maxsize=128)
def layout(tiling: Tiling, device: str) -> Layout:
    """The layout of a tiling, on the given device."""
    on_cpu = Layout.of(tiling)
    return Layout(prefix=on_cpu.prefix.to(device), windows=on_cpu.windows.to(device))


def image_features(model: MolmoForConditionalGeneration, batch: SceneBatch) -> Tensor:
    """Features of all vision tokens of a batch, (scenes x tokens, hidden), scene by scene."""
    windows = layout(batch.tiling, str(batch.pixels.device)).windows
    scenes, crops, patches, _ = batch.pixels.shape
    first = torch.arange(scenes, device=windows.device) * crops * patches
    pooling = (first[:, None, None] + windows).flatten(0, 1)
    return model.get_image_features(normalise(batch.pixels.flatten(0, 1)), batch.masks.flatten(0, 1).float(), pooling)


def answer_logits(model: MolmoForConditionalGeneration, batch: SceneBatch, features: Tensor) -> Packed:
    """Teacher-forced logits at every token of every question; only those that predict answer tokens are meaningful.

    No shape depends on a tensor's value, so that a CUDA graph can capture it.
    """
    prefix = layout(batch.tiling, str(batch.pixels.device)).prefix
    scenes, questions, length = batch.tokens.shape
    ids = torch.cat([prefix.expand(scenes, -1), batch.tokens.flatten(1).long()], dim=1)
    ids = F.pad(ids, (0, -ids.shape[1] % _ALIGNMENT))
    mask, positions = _packed_attention(len(prefix), questions, length, str(ids.device))
    outputs = model.model.language_model(
        inputs_embeds=model.model.merge(ids, features),
        attention_mask=mask.expand(scenes, -1, -1, -1),
        position_ids=positions.expand(scenes, -1),
        use_cache=False,
        output_router_logits=True,
    )
    end = len(prefix) + questions * length
    hidden = outputs.last_hidden_state[:, len(prefix) : end].unflatten(1, (questions, length))
    return Packed(logits=model.lm_head(hidden), router_logits=outputs.router_logits)


def answers_right(logits: Tensor, targets: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Whether every token of the answer, including the end token, has the highest logit, (scenes, questions).

    This is equivalent to greedy decoding giving the answer and stopping: each correct token is the prefix for the next.
    Under a limit on new tokens, a longer answer is wrong, and an answer that reaches the limit needs no end token.
    """
    expected = targets != IGNORE
    right = ~expected | (logits.argmax(-1) == targets)
    if max_new_tokens is None:
        return right.all(-1)
    beyond = expected.cumsum(-1) > max_new_tokens
    return (right | beyond).all(-1) & (expected.sum(-1) - 1 <= max_new_tokens)


@torch.no_grad()
def verdicts(model: MolmoForConditionalGeneration, batch: SceneBatch, max_new_tokens: int | None = None) -> Tensor:
    """Whether the model answers each question right, (scenes, questions); meaningless for padding questions."""
    packed = answer_logits(model, batch, image_features(model, batch))
    return answers_right(packed.logits, batch.targets, max_new_tokens)


def accuracy_by_type(
    model: MolmoForConditionalGeneration, corpus: list[SceneBatch], max_new_tokens: int | None = None, scenes: int = 16
) -> dict[str, tuple[int, int]]:
    """Type -> (right answers, questions) over the corpus, in batches of `scenes` scenes."""
    right, total = torch.zeros(len(TYPES), dtype=torch.long), torch.zeros(len(TYPES), dtype=torch.long)
    for bucket in corpus:
        for start in range(0, len(bucket), scenes):
            batch = bucket.pick(slice(start, start + scenes)).to(model.device)
            types, correct = batch.types.long(), verdicts(model, batch, max_new_tokens)
            total += torch.bincount(types[types >= 0].cpu(), minlength=len(TYPES))
            right += torch.bincount(types[(types >= 0) & correct].cpu(), minlength=len(TYPES))
    return {kind: (int(right[i]), int(total[i])) for i, kind in enumerate(TYPES)}


@lru_cache(maxsize=128)
def _packed_attention(prefix: int, questions: int, length: int, device: str) -> tuple[Tensor, Tensor]:
    """The additive mask (1, 1, sequence, sequence) and the positions (1, sequence) of a packed sequence."""
    padding = -(prefix + questions * length) % _ALIGNMENT  # the padding forms a block of its own
    total = prefix + questions * length + padding
    block = torch.full((total,), -1)
    block[prefix:] = torch.cat([torch.arange(questions).repeat_interleave(length), torch.full((padding,), questions)])
    visible = torch.ones(total, total, dtype=torch.bool).tril() & (
        (block[None, :] == -1) | (block[None, :] == block[:, None])
    )
    mask = torch.zeros(total, total).masked_fill(~visible, _MASKED)[None, None]
    after_prefix = [prefix + torch.arange(length).repeat(questions), prefix + torch.arange(padding)]
    positions = torch.cat([torch.arange(prefix), *after_prefix])[None]
    return mask.to(device), positions.to(device)
