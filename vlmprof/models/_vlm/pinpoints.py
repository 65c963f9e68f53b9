"""The vision budget of LLaVA-NeXT and LLaVA-OneVision: a list of resolutions, in two places that must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

from vlmprof.surfaces import TokenBudget, TokenCounts, VisionBudget


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
