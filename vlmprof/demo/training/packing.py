"""All questions of a scene in one sequence: the picture is encoded once, the questions do not see each other.

The attention mask is block-diagonal over the questions, and each question's positions start right after the
picture, so every logit equals that of the question asked alone (a test compares them with the model's own
`generate`). It makes six or seven training samples of one picture for little more than the cost of one.
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

# Large enough for a weight of exactly 0, small enough to stay finite in bf16.
_NEVER: Final = -1e4
# Fused attention wants rows of a mask to begin at such multiples, or copies it in every block.
_ALIGNED: Final = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What the model predicts after every token of every question."""

    logits: Tensor
    """(scenes, questions, tokens, vocabulary)."""
    router_logits: tuple[Tensor, ...]
    """For each block, (scenes x sequence, experts)."""


@lru_cache(maxsize=128)
def layout(tiling: Tiling, device: str) -> Layout:
    """The layout of a tiling, on a device."""
    made = Layout.of(tiling)
    return Layout(prefix=made.prefix.to(device), windows=made.windows.to(device))


def image_features(model: MolmoForConditionalGeneration, batch: SceneBatch) -> Tensor:
    """Features of all vision tokens of a batch, (scenes x tokens, hidden), scene by scene."""
    windows = layout(batch.tiling, str(batch.pixels.device)).windows
    scenes, crops, patches, _ = batch.pixels.shape
    first = torch.arange(scenes, device=windows.device) * crops * patches
    pooling = (first[:, None, None] + windows).flatten(0, 1)
    return model.get_image_features(normalise(batch.pixels.flatten(0, 1)), batch.masks.flatten(0, 1).float(), pooling)


def answer_logits(model: MolmoForConditionalGeneration, batch: SceneBatch, features: Tensor) -> Packed:
    """Teacher-forced logits at every token of every question; those that predict no answer mean nothing.

    No shape depends on a value: a CUDA graph can hold it.
    """
    prefix = layout(batch.tiling, str(batch.pixels.device)).prefix
    scenes, questions, length = batch.tokens.shape
    ids = torch.cat([prefix.expand(scenes, -1), batch.tokens.flatten(1).long()], dim=1)
    ids = F.pad(ids, (0, -ids.shape[1] % _ALIGNED))
    mask, positions = _packed_attention(len(prefix), questions, length, str(ids.device))
    outputs = model.model.language_model(
        inputs_embeds=model.model.merge(ids, features),
        attention_mask=mask.expand(scenes, -1, -1, -1),
        position_ids=positions.expand(scenes, -1),
        use_cache=False,
        output_router_logits=True,
    )
    end = len(prefix) + questions * length
    asked = outputs.last_hidden_state[:, len(prefix) : end].unflatten(1, (questions, length))
    return Packed(logits=model.lm_head(asked), router_logits=outputs.router_logits)


def answers_right(logits: Tensor, targets: Tensor, max_new_tokens: int | None = None) -> Tensor:
    """Whether every token of an answer and its end is the likeliest, (scenes, questions).

    That is exactly when greedy decoding gives the answer and stops: if a prefix is right, decoding continues from
    it. Under a cap, an answer that is longer is wrong, and one that fills the cap needs no end.
    """
    wanted = targets != IGNORE
    right = ~wanted | (logits.argmax(-1) == targets)
    if max_new_tokens is None:
        return right.all(-1)
    beyond = wanted.cumsum(-1) > max_new_tokens
    return (right | beyond).all(-1) & (wanted.sum(-1) - 1 <= max_new_tokens)


@torch.no_grad()
def verdicts(model: MolmoForConditionalGeneration, batch: SceneBatch, max_new_tokens: int | None = None) -> Tensor:
    """Whether the model answers each question right, (scenes, questions); meaningless where there is no question."""
    packed = answer_logits(model, batch, image_features(model, batch))
    return answers_right(packed.logits, batch.targets, max_new_tokens)


def accuracy_by_type(
    model: MolmoForConditionalGeneration, corpus: list[SceneBatch], max_new_tokens: int | None = None, scenes: int = 16
) -> dict[str, tuple[int, int]]:
    """Right answers and questions of each type, over a whole corpus, `scenes` pictures at a time."""
    right, asked = torch.zeros(len(TYPES), dtype=torch.long), torch.zeros(len(TYPES), dtype=torch.long)
    for bucket in corpus:
        for start in range(0, len(bucket), scenes):
            batch = bucket.pick(slice(start, start + scenes)).to(model.device)
            types, good = batch.types.long(), verdicts(model, batch, max_new_tokens)
            asked += torch.bincount(types[types >= 0].cpu(), minlength=len(TYPES))
            right += torch.bincount(types[(types >= 0) & good].cpu(), minlength=len(TYPES))
    return {kind: (int(right[i]), int(asked[i])) for i, kind in enumerate(TYPES)}


@lru_cache(maxsize=128)
def _packed_attention(prefix: int, questions: int, length: int, device: str) -> tuple[Tensor, Tensor]:
    spare = -(prefix + questions * length) % _ALIGNED  # a last question that nobody asks fills the row up
    total = prefix + questions * length + spare
    block = torch.full((total,), -1)
    block[prefix:] = torch.cat([torch.arange(questions).repeat_interleave(length), torch.full((spare,), questions)])
    seen = torch.ones(total, total, dtype=torch.bool).tril() & (
        (block[None, :] == -1) | (block[None, :] == block[:, None])
    )
    mask = torch.zeros(total, total).masked_fill(~seen, _NEVER)[None, None]
    asked = [prefix + torch.arange(length).repeat(questions), prefix + torch.arange(spare)]
    positions = torch.cat([torch.arange(prefix), *asked])[None]
    return mask.to(device), positions.to(device)
