"""Molmo's image preprocessing, without torchvision.

Per image: a global view (the whole image letterboxed onto one crop) and overlapping crops of a larger letterboxed
canvas. The crops of a batch are concatenated along one axis, and for every image token, in token order, the indices of
the patches that it pools are given. The result is bit-identical to the preprocessing used in training, quirks included.

Source: allenai/molmo ``olmo/data/model_preprocessor.py``, mode overlap-and-resize-c2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from vlmprof.models.molmo.tiling import Geometry, Tiling, select_tiling

Array = npt.NDArray[Any]
Picture = Image.Image | Array

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Letterbox:
    """A canvas with a scaled image at its centre, in pixels."""

    size: tuple[int, int]
    """Height and width of the canvas."""
    scaled: tuple[int, int]
    """Height and width of the image on it."""

    @classmethod
    def of(cls, height: int, width: int, size: tuple[int, int]) -> Letterbox:
        """The largest that an image of ``height x width`` fits into ``size``.

        Raises:
            ValueError: nothing is left of its shorter side.
        """
        # In float32 like the training code: double precision sometimes truncates to another size.
        scale = min(np.float32(size[0]) / np.float32(height), np.float32(size[1]) / np.float32(width))
        scaled = int(np.float32(height) * scale), int(np.float32(width) * scale)
        if min(scaled) < 1:
            raise ValueError(
                f"an image of {height} x {width} is too narrow: scaled into {size[0]} x {size[1]}, nothing is left of"
                " its shorter side"
            )
        return cls(size=size, scaled=scaled)

    @property
    def top(self) -> int:
        """First row of the image."""
        return (self.size[0] - self.scaled[0]) // 2

    @property
    def left(self) -> int:
        """First column of the image."""
        return (self.size[1] - self.scaled[1]) // 2

    @property
    def bottom(self) -> int:
        """First row below the image."""
        return self.top + self.scaled[0]

    @property
    def right(self) -> int:
        """First column beside the image."""
        return self.left + self.scaled[1]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedPicture:
    """A picture of a batch that is not yet cut, and where its views belong."""

    pixels: Array
    """(height, width, 3) of uint8."""
    tiling: Tiling
    global_view: Letterbox
    canvas: Letterbox
    """What the crops are cut from."""
    first_crops: tuple[int, ...]
    """Where its views begin on the batch's axis of crops: one entry for each prompt about this picture."""

    @classmethod
    def of(cls, pixels: Array, tiling: Tiling, first_crops: tuple[int, ...], geometry: Geometry) -> PlacedPicture:
        """Place a picture; raises the ValueError of ``Letterbox.of``."""
        height, width = pixels.shape[:2]
        return cls(
            pixels=pixels,
            tiling=tiling,
            global_view=Letterbox.of(height, width, (geometry.crop_px, geometry.crop_px)),
            canvas=Letterbox.of(height, width, geometry.canvas_px(tiling)),
            first_crops=first_crops,
        )

    @property
    def crops(self) -> int:
        """Views of the picture, the global one included."""
        return 1 + self.tiling[0] * self.tiling[1]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLayout:
    """What a batch of images will be, before any pixel is computed."""

    pictures: tuple[PlacedPicture, ...]
    """One for each distinct image and tiling."""
    crops: int
    """Of the whole batch, global views included."""
    inputs: Mapping[str, Array]
    """All outputs of ``MolmoImageProcessor.preprocess`` but ``pixel_values``."""


@final
class MolmoImageProcessor(BaseImageProcessor):
    """Turns images into crops, masks and pooling windows.

    Args:
        max_crops: default cap on high-resolution crops per image.
        crop_size: side of a crop in pixels.
        patch_size: side of a patch in pixels.
        overlap_margins: left and right margins in patches.
        pool_size: patches per side of a pooling window.
        image_mean: subtracted from each channel in [0, 1].
        image_std: divides each channel afterwards.
        kwargs: other settings of a ``preprocessor_config.json``. The Hub's names of the sizes are read too.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_masks", "image_token_pooling"]

    def __init__(  # noqa: PLR0913 (one parameter for each stored setting; all but the first by name)
        self,
        max_crops: int = 12,
        *,
        crop_size: int = 336,
        patch_size: int = 14,
        overlap_margins: Sequence[int] = (4, 4),
        pool_size: int = 2,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        hub_size = kwargs.pop("base_image_input_size", None)
        patch_size = kwargs.pop("image_patch_size", patch_size)
        for unused in ("image_token_length_w", "image_token_length_h", "image_padding_mask", "do_normalize"):
            kwargs.pop(unused, None)
        super().__init__(**kwargs)
        self.max_crops = max_crops
        self.crop_size = hub_size[0] if hub_size else crop_size
        self.patch_size = patch_size
        self.overlap_margins = list(overlap_margins)
        self.pool_size = pool_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        _ = self.geometry  # raises when the sizes do not fit together

    @property
    def geometry(self) -> Geometry:
        """The image layout that these settings describe."""
        left, right = self.overlap_margins
        return Geometry(
            crop_px=self.crop_size,
            patch_px=self.patch_size,
            margin_left=left,
            margin_right=right,
            pool=self.pool_size,
        )

    def preprocess(
        self,
        images: Picture | Sequence[Picture],
        max_crops: int | None = None,
        tiling: Tiling | Sequence[Tiling] | None = None,
        return_tensors: str | None = "pt",
        **_: Any,
    ) -> BatchFeature:
        """Turn images into model inputs, with the crops of all images on one axis.

        Args:
            images: PIL images (EXIF rotation is applied) or uint8 arrays (height, width, 3).
            max_crops: cap on crops per image; the processor's own when None.
            tiling: (rows, cols) for every image, whatever its size, or one for each image. One tiling for all images
                makes them equal work, for timing; the model was not trained on it.
            return_tensors: "pt" or "np".

        Returns:
            ``pixel_values`` (crops, patches, values), ``image_masks`` (crops, patches), ``image_token_pooling`` (image
            tokens, window) with indices into the patches of the whole batch, ``image_tilings`` (images, 2) and
            ``image_num_crops`` (images,), global views included.

        Raises:
            ValueError: if an image is not RGB uint8, or a cap or tiling is not positive.
        """
        layout = self.layout(images, max_crops, tiling)
        geometry = self.geometry
        views = np.empty((layout.crops, geometry.patches_per_crop, geometry.patch_px**2 * 3), dtype=np.float32)
        for picture in layout.pictures:
            first, *others = (slice(start, start + picture.crops) for start in picture.first_crops)
            self._cut(picture, out=views[first])
            for other in others:
                views[other] = views[first]
        return BatchFeature(data={"pixel_values": views, **layout.inputs}, tensor_type=return_tensors)

    def layout(
        self,
        images: Picture | Sequence[Picture],
        max_crops: int | None = None,
        tiling: Tiling | Sequence[Tiling] | None = None,
    ) -> BatchLayout:
        """The first half of ``preprocess``: everything that needs the sizes of the images, and not their pixels.

        Args:
            images: as for ``preprocess``.
            max_crops: as for ``preprocess``.
            tiling: as for ``preprocess``.

        Raises:
            ValueError: as ``preprocess``, or nothing is left of an image's shorter side when it is scaled.
        """
        pictures = [images] if isinstance(images, (Image.Image, np.ndarray)) else list(images)
        geometry, cap = self.geometry, self.max_crops if max_crops is None else max_crops
        arrays: dict[int, Array] = {}  # prompts of a batch may share an image
        first_crops: dict[tuple[int, Tiling], list[int]] = {}
        tilings: list[Tiling] = []
        crops = 0
        for picture, given in zip(pictures, _tiling_per_picture(tiling, len(pictures)), strict=True):
            if id(picture) not in arrays:
                arrays[id(picture)] = rgb_array(picture)
            height, width = arrays[id(picture)].shape[:2]
            chosen = given or select_tiling(height, width, cap, geometry)
            first_crops.setdefault((id(picture), chosen), []).append(crops)
            tilings.append(chosen)
            crops += 1 + chosen[0] * chosen[1]
        placed = {
            (key, chosen): PlacedPicture.of(arrays[key], chosen, tuple(starts), geometry)
            for (key, chosen), starts in first_crops.items()
        }
        in_order = [placed[id(picture), chosen] for picture, chosen in zip(pictures, tilings, strict=True)]
        return BatchLayout(pictures=tuple(placed.values()), crops=crops, inputs=_without_pixels(in_order, geometry))

    def _cut(self, picture: PlacedPicture, *, out: Array) -> None:
        """Write the global view and the crops of a picture as patches: (1 + crops, patches, values)."""
        views = (picture.global_view, (1, 1), out[:1]), (picture.canvas, picture.tiling, out[1:])
        canvases = [torch.empty(*box.size, 3) for box, _, _ in views]
        # Channel by channel: the memory of one serves for the next, and new memory takes longer than the arithmetic.
        for channel, moments in enumerate(zip(self.image_mean, self.image_std, strict=True)):
            mean, std = (torch.tensor(value, dtype=torch.float32) for value in moments)
            plane = torch.from_numpy(picture.pixels[..., channel].astype(np.float32)).div_(255)
            for canvas, (box, _, _) in zip(canvases, views, strict=True):
                _letterbox(plane, box, mean, std, out=canvas[..., channel])
        for canvas, (_, tiling, part) in zip(canvases, views, strict=True):
            cut_patches(canvas.view(len(canvas), -1).numpy(), tiling, self.geometry, out=part)


def _letterbox(
    plane: torch.Tensor, box: Letterbox, mean: torch.Tensor, std: torch.Tensor, *, out: torch.Tensor
) -> None:
    """Scale one channel (height, width) of an image into a letterbox, on black, and normalise it."""
    if plane.shape == box.scaled:
        shifted = plane - mean
    else:
        shifted = torch.nn.functional.interpolate(
            plane[None, None], size=box.scaled, mode="bilinear", align_corners=False, antialias=True
        )[0, 0].clamp_(0, 1)
        shifted.sub_(mean)
    for margin in (out[: box.top], out[box.bottom :], out[:, : box.left], out[:, box.right :]):
        margin.copy_((0 - mean) / std)  # not zero
    torch.div(shifted, std, out=out[box.top : box.bottom, box.left : box.right])


def _tiling_per_picture(tiling: Tiling | Sequence[Tiling] | None, pictures: int) -> Sequence[Tiling | None]:
    if tiling is None or isinstance(tiling[0], int):
        return [cast("Tiling | None", tiling)] * pictures
    return cast("Sequence[Tiling]", tiling)


def rgb_array(picture: Picture) -> Array:
    """Return an image as (height, width, 3) uint8, with its EXIF rotation applied.

    Raises:
        ValueError: if an array has another shape or type.
    """
    if isinstance(picture, Image.Image):
        # Both calls copy the image even where there is nothing to do, and each copy takes a millisecond or more.
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"an image array must be (height, width, 3) of uint8; got {picture.shape} of {picture.dtype}. "
            "PIL.Image.fromarray(...).convert('RGB') converts most others"
        )
    return picture


def cut_patches(canvas: Array, tiling: Tiling, geometry: Geometry, *, out: Array) -> None:
    """Cut a canvas (height, width * 3) into overlapping crops, and these into patches, all row by row.

    Args:
        canvas: Pixels, in one piece of memory.
        tiling: Crops down and across; neighbours are ``usable_px`` apart.
        geometry: The sizes.
        out: Where the patches go: (crops, patches, values), in one piece of memory.
    """
    rows, cols = tiling
    side, patch = geometry.patches_per_side, geometry.patch_px
    down, across = canvas.strides[0], canvas.strides[1] * 3
    source = np.lib.stride_tricks.as_strided(
        canvas,
        shape=(rows, cols, side, side, patch, patch * 3),
        strides=(
            *(geometry.usable_px * down, geometry.usable_px * across),
            *(patch * down, patch * across, down, canvas.strides[1]),
        ),
        writeable=False,
    )
    assert out.flags.c_contiguous, "what is written to a copy is lost"
    out.reshape(source.shape)[:] = source


def _without_pixels(pictures: Sequence[PlacedPicture], geometry: Geometry) -> dict[str, Array]:
    """Masks, pooling windows, tilings and numbers of crops of these pictures, one after another."""
    starts = np.cumsum([0, *(picture.crops for picture in pictures)]) * geometry.patches_per_crop
    windows = [
        pooling_windows(picture.tiling, geometry) + start for picture, start in zip(pictures, starts[:-1], strict=True)
    ]
    tilings = np.array([picture.tiling for picture in pictures], dtype=np.int64)
    return {
        "image_masks": np.concatenate([_masks(picture, geometry) for picture in pictures]),
        "image_token_pooling": np.concatenate(windows),
        "image_tilings": tilings,
        "image_num_crops": 1 + tilings.prod(axis=1),
    }


def _masks(picture: PlacedPicture, geometry: Geometry) -> Array:
    """(1 + crops, patches)."""
    # The global view comes first but its mask last, as -1: the original preprocessing is off by one crop. The model
    # was trained with that, and correcting it would change the logits.
    masks = np.full((picture.crops, geometry.patches_per_crop), -1, dtype=np.float32)
    masks[:-1] = shares_inside(picture.canvas, picture.tiling, geometry)
    return masks


def shares_inside(box: Letterbox, tiling: Tiling, geometry: Geometry) -> Array:
    """For each patch of each crop the share of its pixels that the image covers: (crops, patches)."""
    down = _covered(box.top, box.bottom, tiling[0], geometry)
    across = _covered(box.left, box.right, tiling[1], geometry)
    pixels = down[:, None, :, None] * across[None, :, None, :]
    shares = pixels.astype(np.float32) / np.float32(geometry.patch_px**2)
    return cast("Array", shares.reshape(tiling[0] * tiling[1], -1))


def _covered(first: int, end: int, crops: int, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Along one axis, how many pixels of each patch lie in ``first`` to ``end``: (crops, patches per side)."""
    patch, side = geometry.patch_px, geometry.patches_per_side
    starts = np.arange(crops)[:, None] * geometry.usable_px + np.arange(side)[None, :] * patch
    return cast("npt.NDArray[np.int64]", (np.minimum(starts + patch, end) - np.maximum(starts, first)).clip(0, patch))


def pooling_windows(tiling: Tiling, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Return for each image token, in order, the patches it pools: (tokens, pool * pool), counted from crop 0.

    The global view is crop 0. A cell of the stitched grid that two crops cover belongs to the later one once the
    earlier one's right margin begins; cells in the outer margins belong to the outermost crops.
    """
    rows, cols = geometry.pooled_grid(tiling)
    stride, margin = geometry.usable_patches // geometry.pool, geometry.margin_left // geometry.pool
    side = geometry.pooled_per_side
    crop_row = np.clip((np.arange(rows) - margin) // stride, 0, tiling[0] - 1)
    crop_col = np.clip((np.arange(cols) - margin) // stride, 0, tiling[1] - 1)
    crop = 1 + crop_row[:, None] * tiling[1] + crop_col[None, :]
    row = np.broadcast_to((np.arange(rows) - stride * crop_row)[:, None], crop.shape)
    col = np.broadcast_to((np.arange(cols) - stride * crop_col)[None, :], crop.shape)
    global_cells = np.arange(side * side)
    crops = np.concatenate([np.zeros(side * side, dtype=np.int64), crop.ravel()])
    top = np.concatenate([global_cells // side, row.ravel()]) * geometry.pool
    left = np.concatenate([global_cells % side, col.ravel()]) * geometry.pool
    corner = crops * geometry.patches_per_crop + top * geometry.patches_per_side + left
    steps = np.arange(geometry.pool)
    offsets = (steps[:, None] * geometry.patches_per_side + steps[None, :]).ravel()
    return cast("npt.NDArray[np.int64]", (corner[:, None] + offsets[None, :]).astype(np.int64))
