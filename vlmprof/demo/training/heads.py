"""Throw-away heads that teach the vision tower to see before the decoder asks it anything; they never ship."""

from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmprof.demo.training.labels import HEADS, IGNORE

# Most tokens show nothing: without less weight on that class the heads learn to say "nothing" and stop there.
_NOTHING_WEIGHT: Final = {"colour": 0.3, "kind": 0.3, "centre": 0.2, "digit": 0.1}


@final
class DenseHeads(nn.Module):
    """One linear head a label of `labels.HEADS`, on the connector's output."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, classes) for name, classes in HEADS.items()})
        for name, weight in _NOTHING_WEIGHT.items():
            weights = torch.ones(HEADS[name])
            weights[-1] = weight
            self.register_buffer(f"{name}_weights", weights)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The sum of the heads' cross entropies; features (tokens, hidden), labels (tokens, heads).

        Each is the weighted mean over the tokens that have a label, and 0 where none has, without a look at the values:
        a CUDA graph cannot wait for one.
        """
        total = features.new_zeros(())
        for column, (name, head) in enumerate(self.heads.items()):
            weights = getattr(self, f"{name}_weights", None)
            wanted = labels[:, column].long()
            there = wanted != IGNORE
            share = there.float() if weights is None else weights[wanted.clamp(min=0)] * there
            summed = F.cross_entropy(head(features), wanted, weights, ignore_index=IGNORE, reduction="sum")
            total = total + summed / share.sum().clamp(min=1e-6)
        return total

    @torch.no_grad()
    def hits(self, features: Tensor, labels: Tensor) -> dict[str, tuple[int, int]]:
        """Right and all tokens of each head, of the tokens that show something."""
        found = {}
        for column, (name, head) in enumerate(self.heads.items()):
            wanted = labels[:, column].long()
            last = HEADS[name] - 1 if name in _NOTHING_WEIGHT else IGNORE
            there = (wanted != IGNORE) & (wanted != last)
            found[name] = (int((head(features).argmax(-1) == wanted)[there].sum()), int(there.sum()))
        return found
