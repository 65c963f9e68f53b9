"""Auxiliary heads that train the vision tower on dense labels; used in training only and not packaged."""

from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmprof.demo.training.labels import HEADS, IGNORE

# Class weight of "nothing here". Most tokens have that class; at full weight the heads learn to predict it always.
_BACKGROUND_WEIGHT: Final = {"colour": 0.3, "kind": 0.3, "centre": 0.2, "digit": 0.1}


@final
class DenseHeads(nn.Module):
    """One linear head per label of `labels.HEADS`, on the output of the connector."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, classes) for name, classes in HEADS.items()})
        for name, weight in _BACKGROUND_WEIGHT.items():
            weights = torch.ones(HEADS[name])
            weights[-1] = weight
            self.register_buffer(f"{name}_weights", weights)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The sum of the heads' cross entropies, a scalar; features (tokens, hidden), labels (tokens, heads).

        Each is the weighted mean over the tokens that have a label, or 0 when no token has one. No control flow depends
        on a tensor's value, because that would need a device synchronisation, which a CUDA graph does not allow.
        """
        total = features.new_zeros(())
        for column, (name, head) in enumerate(self.heads.items()):
            weights = getattr(self, f"{name}_weights", None)
            targets = labels[:, column].long()
            labelled = targets != IGNORE
            token_weights = labelled.float() if weights is None else weights[targets.clamp(min=0)] * labelled
            loss_sum = F.cross_entropy(head(features), targets, weights, ignore_index=IGNORE, reduction="sum")
            total = total + loss_sum / token_weights.sum().clamp(min=1e-6)
        return total

    @torch.no_grad()
    def count_correct(self, features: Tensor, labels: Tensor) -> dict[str, tuple[int, int]]:
        """Head -> (correct tokens, all tokens), over the tokens whose label is not background."""
        counts = {}
        for column, (name, head) in enumerate(self.heads.items()):
            targets = labels[:, column].long()
            background = HEADS[name] - 1 if name in _BACKGROUND_WEIGHT else IGNORE
            counted = (targets != IGNORE) & (targets != background)
            counts[name] = (int((head(features).argmax(-1) == targets)[counted].sum()), int(counted.sum()))
        return counts
