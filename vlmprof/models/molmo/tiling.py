"""How Molmo cuts an image into crops, and how many tokens that gives. Pure integer arithmetic.

An image is letterboxed onto a canvas of ``rows x cols`` overlapping crops, plus one global view of the whole image.
Overlap margins are dropped when the crops' features are stitched together, so the canvas gives one contiguous grid of
pooled cells. It needs neither pixels nor weights, so the planner can compute the cost of a sweep with it.

Source of the formulas: the closed form was derived from allenai/molmo ``olmo/data/model_preprocessor.py`` and checked
against 28,089 rows produced by it; a third of that table is a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

Tiling = tuple[int, int]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes behind Molmo's layout of an image. Margins are counted in patches, ``pool`` in patches per side.

    The defaults are those of every released Molmo v1 (336 px crops of 24 x 24 patches, 12 x 12 pooled tokens).

    Raises:
        ValueError: if the crop is not a whole number of patches, or margins are not multiples of the pooling size.
    """

    crop_px: int = 336
    patch_px: int = 14
    margin_left: int = 4
    margin_right: int = 4
    pool: int = 2

    def __post_init__(self) -> None:
        """Refuse a layout whose pooled cells would straddle two crops."""
        if min(self.crop_px, self.patch_px, self.pool) < 1 or min(self.margin_left, self.margin_right) < 0:
            raise ValueError(f"image geometry sizes must be positive and margins not negative; got {self}")
        if self.crop_px % self.patch_px:
            raise ValueError(f"a crop of {self.crop_px} px is not a whole number of {self.patch_px} px patches")
        if self.usable_patches < 1:
            raise ValueError(
                f"overlap margins ({self.margin_left}, {self.margin_right}) leave no patches of a crop of "
                f"{self.patches_per_side} patches a side; their sum must be smaller than that"
            )
        odd = [n for n in (self.patches_per_side, self.margin_left, self.margin_right) if n % self.pool]
        if odd:
            raise ValueError(
                f"patches per side ({self.patches_per_side}) and margins ({self.margin_left}, {self.margin_right}) "
                f"must be multiples of the pooling size {self.pool}"
            )

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a crop, margins included."""
        return self.crop_px // self.patch_px

    @property
    def patches_per_crop(self) -> int:
        """Patches of one crop: what the vision tower encodes per crop, without the class token."""
        return self.patches_per_side**2

    @property
    def usable_patches(self) -> int:
        """Patches along one side that belong to this crop alone."""
        return self.patches_per_side - self.margin_left - self.margin_right

    @property
    def usable_px(self) -> int:
        """Stride between crops, in pixels."""
        return self.usable_patches * self.patch_px

    @property
    def margin_px(self) -> int:
        """Both margins together, in pixels: the size of a canvas beyond its crops' strides."""
        return (self.margin_left + self.margin_right) * self.patch_px

    @property
    def pooled_per_side(self) -> int:
        """Pooled cells along one side of a crop."""
        return self.patches_per_side // self.pool

    def canvas_px(self, tiling: Tiling) -> tuple[int, int]:
        """Height and width in pixels of the canvas that ``tiling`` crops cover."""
        return tiling[0] * self.usable_px + self.margin_px, tiling[1] * self.usable_px + self.margin_px

    def pooled_grid(self, tiling: Tiling) -> tuple[int, int]:
        """Rows and columns of pooled cells on the stitched canvas."""
        margins = self.margin_left + self.margin_right
        rows, cols = (n * self.usable_patches + margins for n in tiling)
        return rows // self.pool, cols // self.pool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MolmoTokenCounts:
    """Crops and tokens of one image. ``crops`` includes the global view; ``vision_tokens`` are those with a feature."""

    tiling: Tiling
    crops: int
    vision_tokens: int
    image_sequence_tokens: int


def natural_tiling(height: int, width: int, geometry: Geometry) -> Tiling:
    """Return the smallest tiling that needs no downscaling, as if there were no cap.

    A cap binds for an image exactly when ``select_tiling`` returns something else.

    Args:
        height: image height in pixels, as decoded (after EXIF rotation).
        width: image width in pixels.
        geometry: sizes of the model.

    Raises:
        ValueError: if a side is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image must have at least 1 x 1 pixel; got {height} x {width}")
    down, across = height - geometry.margin_px, width - geometry.margin_px
    # If either side is shorter than the margins there is a single crop, as in the preprocessing used in training.
    if down < 0 or across < 0:
        return 1, 1
    return max(1, -(-down // geometry.usable_px)), max(1, -(-across // geometry.usable_px))


def select_tiling(height: int, width: int, max_crops: int, geometry: Geometry) -> Tiling:
    """Return the (rows, cols) of high-resolution crops for an image of the full size ``height x width``.

    The natural tiling if it fits under the cap; otherwise the one that downscales least, ties to fewer crops and then
    to fewer rows. At the largest scale s the smallest tiling is (ceil(s u), ceil(s v)), with u and v the image in
    strides, so rows, columns and tokens never decrease when the cap grows.

    Args:
        height: image height in pixels.
        width: image width in pixels.
        max_crops: cap on rows * cols; the global view is not counted.
        geometry: sizes of the model.

    Raises:
        ValueError: if ``max_crops`` or a side is not positive.
    """
    if max_crops < 1:
        raise ValueError(f"max_crops must be at least 1; got {max_crops}")
    natural = natural_tiling(height, width, geometry)
    if natural[0] * natural[1] <= max_crops:
        return natural
    down, across = height - geometry.margin_px, width - geometry.margin_px

    def scale(tiling: Tiling) -> int:
        # min(rows / down, cols / across) times down * across: exact, so that ties are ties. A side that equals the
        # margins exactly needs no scaling at all, hence does not limit.
        if down == 0:
            return tiling[1]
        if across == 0:
            return tiling[0]
        return min(tiling[0] * across, tiling[1] * down)

    return max(_tilings(max_crops), key=lambda tiling: (scale(tiling), -tiling[0] * tiling[1], -tiling[0]))


@lru_cache(maxsize=64)
def _tilings(max_crops: int) -> tuple[Tiling, ...]:
    return tuple((rows, cols) for rows in range(1, max_crops + 1) for cols in range(1, max_crops // rows + 1))


def tiling_counts(tiling: Tiling, geometry: Geometry) -> MolmoTokenCounts:
    """Return the crops and tokens of an image under a given ``tiling``.

    ``vision_tokens`` = pooled cells of the global view + of the stitched grid; the sequence adds a column token after
    each pooled row and a start and an end token around each of the two blocks. BOS and prompt are not included.

    Raises:
        ValueError: if rows or cols is not positive.
    """
    if min(tiling) < 1:
        raise ValueError(f"a tiling needs at least one row and one column of crops; got {tiling}")
    rows, cols = geometry.pooled_grid(tiling)
    side = geometry.pooled_per_side
    return MolmoTokenCounts(
        tiling=tiling,
        crops=1 + tiling[0] * tiling[1],
        vision_tokens=side * side + rows * cols,
        image_sequence_tokens=side * (side + 1) + 2 + rows * (cols + 1) + 2,
    )


def token_counts(height: int, width: int, max_crops: int, geometry: Geometry) -> MolmoTokenCounts:
    """Return the crops and tokens of a ``height x width`` image under the cap ``max_crops``; see ``tiling_counts``."""
    return tiling_counts(select_tiling(height, width, max_crops, geometry), geometry)
