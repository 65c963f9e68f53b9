"""How much of an image a model may look at, by the class of its image processor.

What unit a budget has, which values are legal and how a value reaches the preprocessing is decided by the image
processor, not by the model around it: InternVL and GOT-OCR share one. Counts are computed from image sizes alone, and
the loaded model compares them with what the processor really made of every prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, final

from vlmprof.surfaces import PixelBudget, TokenBudget, TokenCounts, VisionBudget, largest_within

IDEFICS_LARGEST_PX = 4096
"""Idefics3 and SmolVLM never resize an image to more than this."""


class Budget(Protocol):
    """One image processor's way to look at less of an image."""

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
        """The budgets to choose from for a number of vision tokens, ascending."""
        ...

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        """What an image becomes under a budget."""
        ...

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        """What a call of the processor is told."""
        ...


@final
@dataclass(frozen=True, eq=False)
class SquareTiles:
    """Idefics3, SmolVLM: the longest edge becomes a whole number of tiles; a global view comes on top of any split."""

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
        """The largest edge, up to the trained one, whose tiles fit under the cap."""
        whole_tiles = range(self._tile_px, self._trained_px, self._tile_px)
        for edge in (self._trained_px, *reversed(whole_tiles)):
            if math.prod(self._tiling(height, width, edge)) <= value:
                return edge
        return self._tile_px

    def _tiling(self, height: int, width: int, edge: int) -> tuple[int, int]:
        from transformers.models.idefics3 import image_processing_pil_idefics3 as library

        if not self.processor.image_processor.do_image_splitting:
            return 1, 1
        # The library's own rounding, step by step: a pixel less here is a row of tiles less there.
        height, width = library._resize_output_size_rescale_to_max_len(height, width, max_len=edge)
        height, width = library._resize_output_size_scale_below_upper_bound(height, width, max_len=IDEFICS_LARGEST_PX)
        aspect = width / height
        if width >= height:
            cols = -(-width // self._tile_px)
            return -(-int(cols * self._tile_px / aspect) // self._tile_px), cols
        rows = -(-height // self._tile_px)
        return rows, -(-int(rows * self._tile_px * aspect) // self._tile_px)


@final
@dataclass(frozen=True, eq=False)
class BestCanvas:
    """InternVL and the others on GOT-OCR's processor: the grid of at most n crops nearest to the image's shape."""

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
            (height, width), (size["height"], size["width"]), self._fewest(value), value
        )
        crops = rows * cols + (1 if rows * cols > 1 else 0)
        tokens = crops * self.processor.image_seq_length
        return TokenCounts(tiling=(rows, cols), crops=crops, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"crop_to_patches": True, "min_patches": self._fewest(value), "max_patches": value}

    def _fewest(self, value: int) -> int:
        return min(int(self.processor.image_processor.min_patches), value)


@final
@dataclass(frozen=True, eq=False)
class MergedPatches:
    """Qwen-VL and its kin: an image keeps its shape and is resized to at most so many pixels."""

    processor: Any
    unit: ClassVar[str] = "pixels"
    surfaces: ClassVar[frozenset[type]] = frozenset({PixelBudget, TokenBudget})

    @property
    def lowest(self) -> int:
        """Pixels behind one vision token."""
        image_processor = self.processor.image_processor
        return int((image_processor.patch_size * image_processor.merge_size) ** 2)

    @property
    def trained(self) -> int:
        return int(self.processor.image_processor.size["longest_edge"])

    def values(self) -> Sequence[int]:
        return range(self.lowest, self.trained + 1, self.lowest)

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        size = self._size(value)
        named = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"], "size": size}
        image_processor = self.processor.image_processor
        patches = image_processor.get_number_of_image_patches(height, width, named)
        tokens = int(patches) // image_processor.merge_size**2
        return TokenCounts(tiling=(1, tokens), crops=1, vision_tokens=tokens)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"size": self._size(value)}

    def _size(self, value: int) -> dict[str, int]:
        fewest = int(self.processor.image_processor.size["shortest_edge"])
        # A picture below the minimum is enlarged, each side up to a whole square, which can double a side of one
        # square: a quarter of the cap is the most that is sure to stay under it. The trained pair is left alone.
        lowered = fewest if value == self.trained else min(fewest, value // 4)
        return {"shortest_edge": max(1, lowered), "longest_edge": value}


@final
@dataclass(frozen=True, eq=False)
class TwoSizes:
    """Aria: every crop is a square of one of two sizes, each worth a fixed number of tokens."""

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
    """Molmo2: a grid of at most n crops that overlap, and a global view; each is pooled to a token a window."""

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
        return _overlapping(self.processor.image_processor, height, width, value)

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {"max_crops": value}


@lru_cache(maxsize=4096)
def _overlapping(image_processor: Any, height: int, width: int, value: int) -> TokenCounts:
    grid, crops = image_processor.get_image_grid_and_crops(height, width, {"max_crops": value})
    low_rows, low_cols, rows, cols = (int(side) for side in grid)
    # The rows and columns of pooled windows name the tiling as well as the crops do.
    return TokenCounts(tiling=(rows, cols), crops=int(crops), vision_tokens=low_rows * low_cols + rows * cols)


@final
@dataclass(frozen=True, eq=False)
class Pinpoints:
    """LLaVA-NeXT, LLaVA-OneVision: the best of a list of resolutions; a cap removes the large ones from the list."""

    processor: Any
    unit: ClassVar[str] = "crops"
    surfaces: ClassVar[frozenset[type]] = frozenset({VisionBudget, TokenBudget})

    @property
    def lowest(self) -> int:
        return min(map(self._crops, self._all))

    @property
    def trained(self) -> int:
        return max(map(self._crops, self._all))

    def values(self) -> Sequence[int]:
        return sorted(set(map(self._crops, self._all)))

    def count(self, height: int, width: int, value: int) -> TokenCounts:
        from transformers.image_processing_utils import select_best_resolution

        with self.limited(value):
            tokens = self.processor._get_number_of_features(height, width, self._edge_px, self._edge_px)
        if self.processor.vision_feature_select_strategy == "default":
            tokens -= 1  # the class token is dropped
        best = select_best_resolution((height, width), self.pinpoints(value))
        rows, cols = (side // self._edge_px for side in best)
        return TokenCounts(tiling=(rows, cols), crops=1 + rows * cols, vision_tokens=int(tokens))

    def images_kwargs(self, height: int, width: int, value: int) -> Mapping[str, Any]:
        return {}  # said at call time it is silently wrong: the placeholders are counted from the attribute

    def pinpoints(self, value: int) -> list[list[int]]:
        """The resolutions of at most ``value`` crops."""
        return [list(size) for size in self._all if self._crops(size) <= value]

    @contextmanager
    def limited(self, value: int) -> Iterator[None]:
        """The processor with only these resolutions."""
        image_processor, before = self.processor.image_processor, self._all
        image_processor.image_grid_pinpoints = self.pinpoints(value)
        try:
            yield
        finally:
            image_processor.image_grid_pinpoints = before

    @property
    def _all(self) -> list[list[int]]:
        pinpoints: list[list[int]] = self.processor.image_processor.image_grid_pinpoints
        return pinpoints

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
    """The kind of budget that an image processor of this class name has; None for one that is not known."""
    return BY_IMAGE_PROCESSOR.get(image_processor.removesuffix("Pil").removesuffix("Fast"))


@lru_cache(maxsize=65536)
def budget_within(budget: Budget, height: int, width: int, target: int) -> int:
    """The budget under which an image has the most vision tokens that a target allows."""
    return largest_within(budget.values(), lambda value: budget.count(height, width, value).vision_tokens, target)
