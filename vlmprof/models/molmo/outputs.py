"""What a Molmo forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput


@final
@dataclass
class MolmoOutput(ModelOutput):
    """Logits and the optional outputs that were requested. ``image_features`` can be passed to another ``forward``."""

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None
    image_features: Tensor | None = None
