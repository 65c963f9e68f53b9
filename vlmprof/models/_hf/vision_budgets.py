"""Vision budgets: limits on the crops, pixels or tokens of an image, by the class of the image processor.

The unit of a budget, its legal values and how a value is passed to the preprocessing depend on the image processor, not
on the model around it: InternVL and GOT-OCR share one. Counts are computed from image sizes alone, and the loaded model
compares them with what the processor made of every prompt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol, final

from vlmprof.surfaces import PixelBudget, TokenBudget, TokenCounts, VisionBudget, largest_within

IDEFICS_LARGEST_PX = 4096
"""Idefics3 and SmolVLM never resize an image to more than this."""


class Budget(Protocol):
    """How one kind of image processor limits what it makes of an image."""

    unit: ClassVar[str]
    surfaces: ClassVar[frozenset[type]]

    def __hash__(self) -> int: ...

    @property
    def lowest(self) -> int:
        """The smallest legal budget."""
        ...

    @property
    def trained(self) -> int:
        """The budget of the checkpoint's own configuration."""
        ...

    def values(self) -> Sequence[int]:
        """The budgets that a target for vision tokens can choose from, ascending."""
        ...

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        """What an image becomes under a budget."""
        ...

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        """The ``images_kwargs`` of a call of the processor under a budget."""
        ...


@final
@dataclass(frozen=True, eq=False)
class SquareTiles:
    """Idefics3, SmolVLM: the longest edge becomes a whole number of tiles; a split image also gets a global view."""

    processor: Any
    unit: ClassVar[str] = "crops"
    surfaces: ClassVar[frozenset[type]] = frozenset({VisionBudget, TokenBudget})
    lowest: ClassVar[int] = 1

    @property
    def trained(self) -> int:
        edges = -(-self._trained_px // self._tile_px)
        return edges * edges if self.processor.image_processor.do_image_splitting else 1

    def values(self) -> Sequence[int]:
        return range(self.lowest, self.trained + 1)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        rows, cols = self._tiling(height, width, self._longest_edge(height, width, value))
        crops = 1 + (rows * cols if rows * cols > 1 else 0)
        tokens = crops * self.processor.image_seq_len
        return TokenCounts(tiling=(rows, cols), crops=crops, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"size": {"longest_edge": self._longest_edge(height, width, value)}}

    @property
    def _tile_px(self) -> int:
        return int(self.processor.image_processor.max_image_size["longest_edge"])

    @property
    def _trained_px(self) -> int:
        return int(self.processor.image_processor.size["longest_edge"])

    def _longest_edge(self, height: int, width: int, value: int) -> int:
        """The largest legal size of the longest edge, up to the trained one, whose tiles are within the budget."""
        tile_multiples = range(self._tile_px, self._trained_px, self._tile_px)
        for edge in (self._trained_px, *reversed(tile_multiples)):
            if math.prod(self._tiling(height, width, edge)) <= value:
                return edge
        return self._tile_px

    def _tiling(self, height: int, width: int, edge: int) -> tuple[int, int]:
        from transformers.models.idefics3 import image_processing_pil_idefics3 as idefics3

        if not self.processor.image_processor.do_image_splitting:
            return 1, 1
        # The rounding of transformers, step by step: a difference of one pixel can be a row of tiles.
        height, width = idefics3._resize_output_size_rescale_to_max_len(height, width, max_len=edge)
        height, width = idefics3._resize_output_size_scale_below_upper_bound(height, width, max_len=IDEFICS_LARGEST_PX)
        aspect = width / height
        if width >= height:
            cols = -(-width // self._tile_px)
            return -(-int(cols * self._tile_px / aspect) // self._tile_px), cols
        rows = -(-height // self._tile_px)
        return rows, -(-int(rows * self._tile_px * aspect) // self._tile_px)


@final
@dataclass(frozen=True, eq=False)
class BestCanvas:
    """GOT-OCR's processor (InternVL and others): the grid of at most n crops nearest to the image's aspect ratio."""

    processor: Any
    unit: ClassVar[str] = "crops"
    surfaces: ClassVar[frozenset[type]] = frozenset({VisionBudget, TokenBudget})
    lowest: ClassVar[int] = 1

    @property
    def trained(self) -> int:
        return int(self.processor.image_processor.max_patches)

    def values(self) -> Sequence[int]:
        return range(self.lowest, self.trained + 1)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        size = self.processor.image_processor.size
        cols, rows = get_optimal_tiled_canvas(
            (height, width), (size["height"], size["width"]), self._min_patches(value), value
        )
        crops = rows * cols + (1 if rows * cols > 1 else 0)
        tokens = crops * self.processor.image_seq_length
        return TokenCounts(tiling=(rows, cols), crops=crops, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"crop_to_patches": True, "min_patches": self._min_patches(value), "max_patches": value}

    def _min_patches(self, value: int) -> int:
        return min(int(self.processor.image_processor.min_patches), value)


@final
@dataclass(frozen=True, eq=False)
class MergedPatches:
    """Qwen-VL and similar: an image keeps its aspect ratio and is resized to at most the given number of pixels."""

    processor: Any
    unit: ClassVar[str] = "pixels"
    surfaces: ClassVar[frozenset[type]] = frozenset({PixelBudget, TokenBudget})

    @property
    def lowest(self) -> int:
        """Pixels per vision token."""
        image_processor = self.processor.image_processor
        return int((image_processor.patch_size * image_processor.merge_size) ** 2)

    @property
    def trained(self) -> int:
        return int(self.processor.image_processor.size["longest_edge"])

    def values(self) -> Sequence[int]:
        return range(self.lowest, self.trained + 1, self.lowest)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        size = self._size(value)
        size_arguments = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"], "size": size}
        image_processor = self.processor.image_processor
        patches = image_processor.get_number_of_image_patches(height, width, size_arguments)
        tokens = int(patches) // image_processor.merge_size**2
        return TokenCounts(tiling=(1, tokens), crops=1, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"size": self._size(value)}

    def _size(self, value: int) -> dict[str, int]:
        trained_minimum = int(self.processor.image_processor.size["shortest_edge"])
        # Images below the minimum are enlarged, with each side rounded up to whole squares, which can double a side of
        # one square. So only a minimum of a quarter of the cap cannot exceed the cap. The trained pair is not changed.
        minimum = trained_minimum if value == self.trained else min(trained_minimum, value // 4)
        return {"shortest_edge": max(1, minimum), "longest_edge": value}


@final
@dataclass(frozen=True, eq=False)
class TwoSizes:
    """Aria: every crop is a square of one of two sizes, each with a fixed number of tokens."""

    processor: Any
    unit: ClassVar[str] = "px a side"
    surfaces: ClassVar[frozenset[type]] = frozenset({TokenBudget})

    @property
    def lowest(self) -> int:
        return min(self.values())

    @property
    def trained(self) -> int:
        return int(type(self.processor).images_kwargs["max_image_size"])

    def values(self) -> Sequence[int]:
        return sorted(self.processor.size_conversion)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        tokens = int(self.processor.size_conversion[value])
        return TokenCounts(tiling=(1, tokens), crops=1, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"max_image_size": value, "split_image": False}


@final
@dataclass(frozen=True, eq=False)
class OverlappingCrops:
    """Molmo2: a grid of at most n overlapping crops and a global view; each window of patches becomes one token."""

    processor: Any
    unit: ClassVar[str] = "crops"
    surfaces: ClassVar[frozenset[type]] = frozenset({VisionBudget, TokenBudget})
    lowest: ClassVar[int] = 1

    @property
    def trained(self) -> int:
        return int(self.processor.image_processor.max_crops)

    def values(self) -> Sequence[int]:
        return range(self.lowest, self.trained + 1)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        return _overlapping_counts(self.processor.image_processor, height, width, value)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"max_crops": value}


@lru_cache(maxsize=4096)
def _overlapping_counts(image_processor: Any, height: int, width: int, value: int) -> TokenCounts:
    grid, crops = image_processor.get_image_grid_and_crops(height, width, {"max_crops": value})
    global_rows, global_cols, rows, cols = (int(side) for side in grid)
    # The grid of pooled windows identifies the tiling as well as the grid of crops would.
    return TokenCounts(tiling=(rows, cols), crops=int(crops), vision_tokens=global_rows * global_cols + rows * cols)


@final
@dataclass(frozen=True, eq=False)
class Pinpoints:
    """LLaVA-NeXT, LLaVA-OneVision: the best fit in a list of resolutions; a budget removes the large ones.

    The list is copied when the budget is made, and no processor is ever changed: a budget is applied by a copy of the
    processor with a shorter list.
    """

    processor: Any
    unit: ClassVar[str] = "crops"
    surfaces: ClassVar[frozenset[type]] = frozenset({VisionBudget, TokenBudget})
    resolutions: tuple[tuple[int, int], ...] = field(init=False)
    """(height, width) of every resolution of the checkpoint."""

    def __post_init__(self) -> None:
        """Copy the list of the image processor."""
        listed = self.processor.image_processor.image_grid_pinpoints
        object.__setattr__(self, "resolutions", tuple((int(height), int(width)) for height, width in listed))

    @property
    def lowest(self) -> int:
        return min(map(self._crops, self.resolutions))

    @property
    def trained(self) -> int:
        return max(map(self._crops, self.resolutions))

    def values(self) -> Sequence[int]:
        return sorted(set(map(self._crops, self.resolutions)))

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        from transformers.image_processing_utils import select_best_resolution

        limited = self.limited(self.processor, value)
        tokens = limited._get_number_of_features(height, width, self._edge_px, self._edge_px)
        if self.processor.vision_feature_select_strategy == "default":
            tokens -= 1  # the class token is dropped
        best = select_best_resolution((height, width), self.pinpoints(value))
        rows, cols = (side // self._edge_px for side in best)
        return TokenCounts(tiling=(rows, cols), crops=1 + rows * cols, vision_tokens=int(tokens))

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {}  # as a call argument it would be silently wrong, because placeholders are counted from the attribute

    def pinpoints(self, value: int) -> list[list[int]]:
        """The resolutions of at most ``value`` crops."""
        return [list(size) for size in self.resolutions if self._crops(size) <= value]

    def limited(self, processor: Any, value: int) -> Any:
        """A shallow copy of a processor whose image processor, a copy too, has only these resolutions."""
        limited = copy.copy(processor)
        limited.image_processor = copy.copy(processor.image_processor)
        limited.image_processor.image_grid_pinpoints = self.pinpoints(value)
        return limited

    @property
    def _edge_px(self) -> int:
        image_processor = self.processor.image_processor
        size = getattr(image_processor, "crop_size", None) or image_processor.size
        return int(size["height"] or size["shortest_edge"])

    def _crops(self, size: Sequence[int]) -> int:
        return (size[0] // self._edge_px) * (size[1] // self._edge_px)


BY_IMAGE_PROCESSOR: Mapping[str, type[Budget]] = {
    "Idefics3ImageProcessor": SquareTiles,
    "SmolVLMImageProcessor": SquareTiles,
    "GotOcr2ImageProcessor": BestCanvas,
    "LlavaNextImageProcessor": Pinpoints,
    "LlavaOnevisionImageProcessor": Pinpoints,
    "Qwen2VLImageProcessor": MergedPatches,
    "Glm4vImageProcessor": MergedPatches,
    "Ernie4_5_VLMoeImageProcessor": MergedPatches,
    "PaddleOCRVLImageProcessor": MergedPatches,
    "AriaImageProcessor": TwoSizes,
    "Molmo2ImageProcessor": OverlappingCrops,
}


def budget_class(image_processor: str) -> type[Budget] | None:
    """The budget class for an image processor of this class name; None where there is no entry for it."""
    return BY_IMAGE_PROCESSOR.get(image_processor.removesuffix("Pil").removesuffix("Fast"))


@lru_cache(maxsize=65536)
def budget_within(budget: Budget, height: int, width: int, target: int) -> int:
    """The budget that gives an image the most vision tokens within the target."""
    return largest_within(budget.values(), lambda value: budget.count(height, width, value).vision_tokens, target)
