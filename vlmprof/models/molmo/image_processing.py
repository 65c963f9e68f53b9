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
        data = {key: np.concatenate(arrays) for key, arrays in parts.items()}
        data["image_tilings"] = np.array(tilings, dtype=np.int64)
        data["image_num_crops"] = 1 + data["image_tilings"].prod(axis=1)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _views(self, pixels: Array, tiling: Tiling) -> tuple[Array, Array]:
        geometry = self.geometry
        global_view, _ = self._letterbox(pixels, (geometry.crop_px, geometry.crop_px))
        canvas, mask = self._letterbox(pixels, geometry.canvas_px(tiling))
        views = [to_patches(global_view, geometry.patch_px)]
        masks = []
        for row in range(tiling[0]):
            for col in range(tiling[1]):
                top, left = row * geometry.usable_px, col * geometry.usable_px
                window = np.s_[top : top + geometry.crop_px, left : left + geometry.crop_px]
                views.append(to_patches(canvas[window], geometry.patch_px))
                masks.append(to_patches(mask[window], geometry.patch_px).mean(-1))
        # The global view comes first but its mask last, as -1: the original preprocessing is off by one crop. The model
        # was trained with that, and correcting it would change the logits.
        masks.append(np.full(geometry.patches_per_crop, -1, dtype=np.float32))
        return np.stack(views), np.stack(masks)

    def _letterbox(self, pixels: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """Scale into ``size``, centre on black, normalise; return pixels (h, w, 3) and image mask (h, w, 1)."""
        height, width = pixels.shape[:2]
        # In float32 like the training code: double precision sometimes truncates to another size.
        scale = min(np.float32(size[0]) / np.float32(height), np.float32(size[1]) / np.float32(width))
        scaled = int(np.float32(height) * scale), int(np.float32(width) * scale)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
        if scaled != (height, width):
            image = torch.nn.functional.interpolate(
                image[None], size=scaled, mode="bilinear", align_corners=False, antialias=True
            )[0]
        top, left = (size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2
        inside = np.s_[top : top + scaled[0], left : left + scaled[1]]
        canvas = np.zeros((*size, 3), dtype=np.float32)
        canvas[inside] = image.clamp(0, 1).permute(1, 2, 0).numpy()
        mask = np.zeros((*size, 1), dtype=np.float32)
        mask[inside] = 1
        # The padding is black, so it is normalised to a value other than zero.
        canvas -= np.array(self.image_mean, dtype=np.float32)
        canvas /= np.array(self.image_std, dtype=np.float32)
        return canvas, mask


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


def to_patches(view: Array, patch_px: int) -> Array:
    """Cut (side, side, channels) into (patches, patch_px * patch_px * channels), both row by row."""
    side, channels = view.shape[0] // patch_px, view.shape[2]
    blocks = view.reshape(side, patch_px, side, patch_px, channels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(side * side, -1)


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
