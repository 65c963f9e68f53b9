"""Molmo's image preprocessing, without torchvision.

Per image: a global view (the whole image letterboxed onto one crop) and overlapping crops of a larger letterboxed
canvas. The crops of a batch are concatenated along one axis, and for every image token, in token order, the indices of
the patches that it pools are given. The result is bit-identical to the preprocessing used in training, quirks included.

Source: allenai/molmo ``olmo/data/model_preprocessor.py``, mode overlap-and-resize-c2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from vlmprof.models.molmo.tiling import Geometry, Tiling, select_tiling

Array = npt.NDArray[Any]
Picture = Image.Image | Array
Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


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
        pictures = [images] if isinstance(images, (Image.Image, np.ndarray)) else list(images)
        geometry, cap = self.geometry, self.max_crops if max_crops is None else max_crops
        parts: dict[str, list[Array]] = {"pixel_values": [], "image_masks": [], "image_token_pooling": []}
        tilings: list[Tiling] = []
        done: dict[tuple[int, Tiling], tuple[Array, Array]] = {}  # prompts of a batch may share an image
        crops = 0
        for picture, given in zip(pictures, _tiling_per_picture(tiling, len(pictures)), strict=True):
            pixels = rgb_array(picture)
            chosen = given or select_tiling(pixels.shape[0], pixels.shape[1], cap, geometry)
            if (id(picture), chosen) not in done:
                done[id(picture), chosen] = self._views(pixels, chosen)
            views, masks = done[id(picture), chosen]
            parts["pixel_values"].append(views)
            parts["image_masks"].append(masks)
            parts["image_token_pooling"].append(pooling_windows(chosen, geometry) + crops * geometry.patches_per_crop)
            tilings.append(chosen)
            crops += len(views)
        data = {key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for key, arrays in parts.items()}
        data["image_tilings"] = np.array(tilings, dtype=np.int64)
        data["image_num_crops"] = 1 + data["image_tilings"].prod(axis=1)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _views(self, pixels: Array, tiling: Tiling) -> tuple[Array, Array]:
        """Global view and crops as patches, (1 + crops, patches, values), and their masks, (1 + crops, patches)."""
        geometry, crops = self.geometry, tiling[0] * tiling[1]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().div_(255)
        global_view, _ = self._letterbox(image, (geometry.crop_px, geometry.crop_px))
        canvas, inside = self._letterbox(image, geometry.canvas_px(tiling))
        views = np.empty((1 + crops, geometry.patches_per_crop, geometry.patch_px**2 * 3), dtype=np.float32)
        cut_patches(global_view, (1, 1), geometry, out=views[:1])
        cut_patches(canvas, tiling, geometry, out=views[1:])
        # The global view comes first but its mask last, as -1: the original preprocessing is off by one crop. The model
        # was trained with that, and correcting it would change the logits.
        masks = np.full((1 + crops, geometry.patches_per_crop), -1, dtype=np.float32)
        masks[:crops] = shares_inside(inside, tiling, geometry)
        return views, masks

    def _letterbox(self, image: torch.Tensor, size: tuple[int, int]) -> tuple[Array, Box]:
        """Scale (3, height, width) into ``size``, centre it on black and normalise.

        Returns:
            Pixels (height, width * 3), and where the image lies: top, left, bottom, right.
        """
        height, width = image.shape[1:]
        # In float32 like the training code: double precision sometimes truncates to another size.
        scale = min(np.float32(size[0]) / np.float32(height), np.float32(size[1]) / np.float32(width))
        scaled = int(np.float32(height) * scale), int(np.float32(width) * scale)
        top, left = (size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2
        bottom, right = top + scaled[0], left + scaled[1]
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (self.image_mean, self.image_std))
        # The padding is black, so it is normalised to a value other than zero.
        canvas = ((0 - mean) / std).expand(*size, 3).contiguous()
        inside = canvas[top:bottom, left:right]
        if scaled == (height, width):
            torch.sub(image.permute(1, 2, 0), mean, out=inside)
            inside.div_(std)
        else:  # in place and plane by plane: new memory of this size costs more than the arithmetic
            image = torch.nn.functional.interpolate(
                image[None], size=scaled, mode="bilinear", align_corners=False, antialias=True
            )[0].clamp_(0, 1)
            image.sub_(mean[:, None, None]).div_(std[:, None, None])
            inside.copy_(image.permute(1, 2, 0))
        return canvas.numpy().reshape(size[0], -1), (top, left, bottom, right)


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
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
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


def shares_inside(inside: Box, tiling: Tiling, geometry: Geometry) -> Array:
    """For each patch of each crop the share of its pixels that the image covers: (crops, patches)."""
    top, left, bottom, right = inside
    down = _covered(top, bottom, tiling[0], geometry)
    across = _covered(left, right, tiling[1], geometry)
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
