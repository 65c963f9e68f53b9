"""Surfaces, the interfaces through which a knob changes a model, and ``Anatomy``, the structure of a checkpoint.

A knob needs exactly one surface; a model family provides some of them, known from the checkpoint's configuration alone
(``Anatomy``), and ``trial.resolve`` compares the two sets before a GPU is used. A knob changes a model only through its
surface and a model does not depend on knobs, so adding either never means changing the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, final


class VisionBudget(Protocol):
    """The largest number of crops of an image that go through the vision encoder."""

    max_crops: int
    """A cap: the preprocessing tiles an image into at most this many crops, often fewer."""


class TokenBudget(Protocol):
    """The number of vision tokens of an image, independent of the unit in which the preprocessing is limited."""

    vision_tokens: int | None
    """A target: each image gets the largest budget that stays within it; None leaves the preprocessing's own budget."""


class PixelBudget(Protocol):
    """The largest size to which an image is resized, for models that keep its aspect ratio and cut no crops."""

    max_pixels: int
    """A cap, in pixels of the resized image."""


class FreeTiling(Protocol):
    """One tiling for all images, whatever their size, so that every image costs the same work."""

    tiling: tuple[int, int] | None
    """Rows and columns of crops for every image; None chooses the tiling by the image's size."""


class Router(Protocol):
    """The part of a mixture-of-experts block that picks experts."""

    top_k: int
    """Experts computed for each token."""


class ExpertRouting(Protocol):
    """How many experts each token is sent to."""

    @property
    def routers(self) -> Sequence[Router]:
        """The routers in the order of the checkpoint's blocks, including those of blocks that do not run now."""
        ...


class DecoderStack(Protocol):
    """Which blocks of the language model run."""

    @property
    def decoder(self) -> Any:
        """The module that has ``layers`` (a ``torch.nn.ModuleList``) and ``config``."""
        ...


class OutputBudget(Protocol):
    """How many tokens an answer may have."""

    output_tokens: int | None
    """A cap in the score pass, the exact length in the timing pass; None uses the task's cap and the job's length."""


class Precision(Protocol):
    """The dtype of weights and activations. Chosen when the model is loaded."""


class AttentionKernel(Protocol):
    """Which kernel computes attention. Chosen when the model is loaded."""


class ExpertsKernel(Protocol):
    """Which kernel computes the chosen experts. Chosen when the model is loaded."""


SURFACES: tuple[type, ...] = (
    VisionBudget,
    TokenBudget,
    PixelBudget,
    FreeTiling,
    ExpertRouting,
    DecoderStack,
    OutputBudget,
    Precision,
    AttentionKernel,
    ExpertsKernel,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tiling, crops and vision tokens of an image, computed from its size without decoding it."""

    tiling: tuple[int, int]
    crops: int
    vision_tokens: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The structure of a checkpoint, read from its configuration without weights or torch."""

    family: str
    architecture: str
    fingerprint: str
    """Identity of the weights: a hub revision, or a hash of the files."""
    decoder_blocks: int
    max_crops: int
    """The cap that the model was trained with, in ``vision_unit``."""
    min_crops: int = 1
    """The smallest cap that the preprocessing can keep, in ``vision_unit``."""
    vision_unit: str = "crops"
    """Unit of the vision budget."""
    experts: int | None = None
    """Experts per mixture-of-experts block; None for a dense model."""
    reachable_experts: int | None = None
    """Experts that a token can be sent to, if routers first choose groups of experts; None: all."""
    experts_per_token: int | None = None
    """The top-k the model was trained with; None for a dense model."""
    router_blocks: tuple[int, ...] = ()
    """The decoder block of each router, ascending; empty: one router in every block."""
    renormalises: bool | None = False
    """Whether the chosen experts' weights are scaled to sum to one; None if the model's code has no such setting."""
    attention_blocks: tuple[int, ...] = ()
    """The blocks that have a key-value cache; empty: all."""
    attention_kernels: tuple[str, ...] = ("sdpa", "eager")
    """Kernels that every part of the model supports, the default first."""
    experts_kernels: tuple[str, ...] = ()
    """Kernels of the experts, the default first; empty for a dense model, or if the model's code offers no choice."""
    decoding_left_out: str = ""
    """Settings of the checkpoint's generation configuration that would change greedy answers and are not applied."""
    provides: frozenset[type] = frozenset(SURFACES)
    lacks: Mapping[type, str] = field(default_factory=lambda: MappingProxyType({}))
    """Surface -> why it is not provided, for the error message that refuses a knob."""
    count_tokens: Callable[[int, int, int], TokenCounts]
    """(height, width, budget in ``vision_unit``) -> counts of the image."""
    count_tiling: Callable[[tuple[int, int]], TokenCounts] | None = None
    """Tiling -> counts of any image; None if tilings cannot be chosen."""
    budgets: Sequence[int] = ()
    """The legal budgets, ascending; empty: every whole number from ``min_crops`` to ``max_crops``."""
    only_eager: str = "its family has no static decode step (decoding.StaticDecode)"
    """Why engines other than ``eager`` cannot run the model; empty if they can."""
    only_host: str = "its family cuts pictures on the host only"
    """Why pictures cannot be cut on the device; empty if they can."""

    @property
    def crops_known(self) -> bool:
        """Whether ``count_tokens`` returns the number of crops, which needs a known image processor."""
        return self.vision_unit != FIXED

    def within(self, height: int, width: int, target: int) -> TokenCounts:
        """Counts of an image under the largest budget that gives it at most ``target`` vision tokens."""
        budgets = self.budgets or range(self.min_crops, self.max_crops + 1)
        best = largest_within(budgets, lambda budget: self.count_tokens(height, width, budget).vision_tokens, target)
        return self.count_tokens(height, width, best)


FIXED = "fixed"
"""``vision_unit`` of a model whose vision budget vlmprof does not know and cannot change."""

EXHAUSTIVE_BUDGETS = 64
"""Up to this many budgets, all are tried."""


def largest_within(budgets: Sequence[int], tokens: Callable[[int], int], target: int) -> int:
    """The budget with the most tokens that stays within ``target``; the smallest budget if none does.

    Up to ``EXHAUSTIVE_BUDGETS`` budgets are all tried, because token counts need not grow with the budget where padding
    is cut off; more are bisected.

    Args:
        budgets: Ascending, at least one.
        tokens: Budget -> vision tokens.
        target: The most vision tokens allowed.
    """
    if len(budgets) <= EXHAUSTIVE_BUDGETS:
        return max((budget for budget in budgets if tokens(budget) <= target), key=tokens, default=budgets[0])
    low, high = 0, len(budgets) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(budgets[middle]) <= target else (low, middle - 1)
    return budgets[low]
