"""What a knob may touch on a model, and what a model is made of.

A knob needs exactly one surface; a model family provides some, known from its configuration alone (``Anatomy``), and
``trial.resolve`` compares the two sets before a GPU is taken. A knob never reaches past its surface and a model never
knows a knob, so adding either never means changing the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, final


class VisionBudget(Protocol):
    """How many crops of an image the model may look at."""

    max_crops: int
    """A cap: the preprocessing tiles an image into at most this many crops, often fewer."""


class TokenBudget(Protocol):
    """How many vision tokens an image may become, whatever the unit of the preprocessing."""

    vision_tokens: int | None
    """A target: each image gets the largest budget that stays within it; None leaves the budget of the unit."""


class PixelBudget(Protocol):
    """How many pixels an image is resized to at most, where images keep their shape and are not cut into crops."""

    max_pixels: int
    """A cap, in pixels of the resized image."""


class FreeTiling(Protocol):
    """Which tiling an image gets, whatever its size: equal work on every image."""

    tiling: tuple[int, int] | None
    """Rows and columns of crops for every image; None lets the image's size decide."""


class Router(Protocol):
    """The part of a mixture-of-experts block that picks experts."""

    top_k: int
    """Experts computed for each token."""


class ExpertRouting(Protocol):
    """How many experts each token is sent to."""

    @property
    def routers(self) -> Sequence[Router]:
        """The routers in the order of the checkpoint's blocks, also of blocks that are left out for the moment."""
        ...


class DecoderStack(Protocol):
    """Which blocks of the language model run."""

    @property
    def decoder(self) -> Any:
        """The module that owns ``layers`` (a ``torch.nn.ModuleList``) and ``config``."""
        ...


class OutputBudget(Protocol):
    """How many tokens an answer may have."""

    output_tokens: int | None
    """A cap while scoring, the exact length while timing; None leaves the task's cap and the job's length."""


class Precision(Protocol):
    """In which type weights and activations are held. Chosen when the model is loaded."""


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
    """What an image of a known size becomes, before any pixel is touched."""

    tiling: tuple[int, int]
    crops: int
    vision_tokens: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a checkpoint is made of, read from its configuration: no weights, no torch."""

    family: str
    architecture: str
    fingerprint: str
    """Identity of the weights: a hub revision, or a hash of the files."""
    decoder_blocks: int
    max_crops: int
    """The cap the model was trained with, in ``vision_unit``."""
    min_crops: int = 1
    """The smallest cap that the preprocessing can follow, in ``vision_unit``."""
    vision_unit: str = "crops"
    """What the vision budget is counted in."""
    experts: int | None = None
    """Experts per mixture-of-experts block; None for a dense model."""
    reachable_experts: int | None = None
    """Experts that a token can be sent to, where routers first choose groups of them; None: all."""
    experts_per_token: int | None = None
    """The top-k the model was trained with; None for a dense model."""
    router_blocks: tuple[int, ...] = ()
    """The decoder block of each router, ascending; empty: one router in every block."""
    renormalises: bool | None = False
    """Whether the chosen experts' weights are scaled to sum to one; None where the code leaves no choice."""
    attention_blocks: tuple[int, ...] = ()
    """The blocks that keep keys and values; empty: all do."""
    attention_kernels: tuple[str, ...] = ("sdpa", "eager")
    """Kernels that every part of the model has, the one first that is used where nothing is said."""
    experts_kernels: tuple[str, ...] = ()
    """Likewise for the experts; empty for a dense model, and where the code leaves no choice."""
    decoding_left_out: str = ""
    """Settings of the checkpoint's generation configuration that would change greedy answers and are not applied."""
    provides: frozenset[type] = frozenset(SURFACES)
    lacks: Mapping[type, str] = field(default_factory=lambda: MappingProxyType({}))
    """Why a surface is not provided, for the error that refuses a knob."""
    count_tokens: Callable[[int, int, int], TokenCounts]
    """(height, width, budget in ``vision_unit``) -> what the image becomes."""
    count_tiling: Callable[[tuple[int, int]], TokenCounts] | None = None
    """What any image becomes under a tiling; None where tilings cannot be chosen."""
    budgets: Sequence[int] = ()
    """The legal budgets, ascending; empty: every whole number from ``min_crops`` to ``max_crops``."""
    only_eager: str = "its family has no decode step on fixed memory (fixed_steps.FixedSteps)"
    """Why engines other than ``eager`` cannot run it; empty where they can."""

    @property
    def crops_known(self) -> bool:
        """Whether ``count_tokens`` says how many crops there are: it does where the image processor is known."""
        return self.vision_unit != FIXED

    def within(self, height: int, width: int, target: int) -> TokenCounts:
        """What an image becomes under the largest budget that makes at most ``target`` vision tokens of it."""
        budgets = self.budgets or range(self.min_crops, self.max_crops + 1)
        best = largest_within(budgets, lambda budget: self.count_tokens(height, width, budget).vision_tokens, target)
        return self.count_tokens(height, width, best)


FIXED = "fixed"
"""The unit of a vision budget that is not known to vlmprof and cannot be turned."""

FEW = 64
"""Up to so many budgets are tried one by one."""


def largest_within(budgets: Sequence[int], tokens: Callable[[int], int], target: int) -> int:
    """The budget of the most tokens that stays within ``target``; the smallest budget where none does.

    Few budgets are all tried, because counts need not grow with them where padding is cut off; many are bisected.

    Args:
        budgets: Ascending, at least one.
        tokens: Vision tokens under a budget.
        target: Most tokens there may be.
    """
    if len(budgets) <= FEW:
        return max((budget for budget in budgets if tokens(budget) <= target), key=tokens, default=budgets[0])
    low, high = 0, len(budgets) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(budgets[middle]) <= target else (low, middle - 1)
    return budgets[low]
