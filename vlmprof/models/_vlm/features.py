"""What the vision side made of a batch, kept until the language model reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """As long as the language model's places for it."""

    output: Any
    """What ``get_image_features`` returned: pooled features, and for some models those of deeper layers."""
    inputs: Mapping[str, Tensor]
    """The whole batch on the device: the library still asks for some of it beside the features."""

    def __len__(self) -> int:
        """Feature vectors, one for each vision token."""
        return sum(part.numel() // part.shape[-1] for part in _pooled(self.output))


def split_rows(inputs: Mapping[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    """A batch of ``rows`` prompts of one image each as that many batches of one."""
    return [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in range(rows)]


def join(parts: Sequence[Features], inputs: Mapping[str, Tensor]) -> Features:
    """The features of several batches of one as those of a whole, images in order."""
    output = parts[0].output
    output.pooler_output = [image for part in parts for image in _pooled(part.output)]
    return Features(output=output, inputs=inputs)


def _pooled(output: Any) -> list[Tensor]:
    pooled = output.pooler_output
    return [pooled] if isinstance(pooled, torch.Tensor) else list(pooled)
