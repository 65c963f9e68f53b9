"""How the pictures of a task tile under each cap, and which caps are the same work: from sizes alone, no model runs.

A cap on crops is a cap: a picture that needs four crops is the same work under 4, 6 and 12. Two caps under which every
picture becomes the same are one setting under two names, and a sweep over both measures one thing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.errors import UserError
from vlmprof.surfaces import Anatomy

MOST_CAPS = 64
"""Budgets that are listed at most; a model that counts its budget in pixels has thousands."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """How all pictures are tiled under one budget."""

    budget: int
    tokens_mean: float
    """Vision tokens a picture that reach the language model."""
    tokens_most: int
    capped_share: float
    """Share of pictures that get fewer tokens than under the largest budget."""
    same_as: int | None
    """The smallest budget under which every picture becomes the same; None where this is that one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tilings:
    """All budgets of a model on one task."""

    model: str
    unit: str
    pictures: int
    refused: int
    """Further pictures, of sizes that the model's image processor does not take."""
    sizes: tuple[tuple[tuple[int, int], int], ...]
    """((width, height), pictures), the most frequent first; ten at most."""
    caps: tuple[Cap, ...]

    @property
    def distinct(self) -> tuple[int, ...]:
        """The budgets that differ in work; a sweep should list these."""
        return tuple(cap.budget for cap in self.caps if cap.same_as is None)


def tilings(model: str, anatomy: Anatomy, sizes: Sequence[tuple[int, int]]) -> Tilings:
    """How pictures of these (width, height) sizes are tiled under each budget.

    Raises:
        UserError: there are no pictures that the model takes, or the model has no budget.
    """
    counted = Counter({size: count for size, count in Counter(sizes).items() if _is_taken(anatomy, size)})
    if not counted:
        raise UserError("no pictures to tile" if not sizes else "the model takes none of the pictures")
    budgets = list(anatomy.budgets) or list(range(anatomy.min_crops, anatomy.max_crops + 1))
    if len(budgets) > MOST_CAPS:
        step = (len(budgets) - 1) / (MOST_CAPS - 1)
        budgets = [budgets[round(place * step)] for place in range(MOST_CAPS)]
    made = {
        budget: tuple(anatomy.count_tokens(height, width, budget).vision_tokens for width, height in counted)
        for budget in budgets
    }
    return Tilings(
        model=model,
        unit=anatomy.vision_unit,
        pictures=counted.total(),
        refused=len(sizes) - counted.total(),
        sizes=tuple(counted.most_common(10)),
        caps=tuple(_cap(budget, made, list(counted.values())) for budget in budgets),
    )


def _is_taken(anatomy: Anatomy, size: tuple[int, int]) -> bool:
    try:
        anatomy.count_tokens(size[1], size[0], anatomy.max_crops)
    except Exception:  # whatever the image processor of a checkpoint raises
        return False
    return True


def _cap(budget: int, made: dict[int, tuple[int, ...]], counts: Sequence[int]) -> Cap:
    tokens, fullest = made[budget], made[max(made)]
    total = sum(counts)
    first = next(other for other in made if made[other] == tokens)
    below = sum(count for mine, most, count in zip(tokens, fullest, counts, strict=True) if mine < most)
    return Cap(
        budget=budget,
        tokens_mean=sum(each * count for each, count in zip(tokens, counts, strict=True)) / total,
        tokens_most=max(tokens),
        capped_share=below / total,
        same_as=None if first == budget else first,
    )
