"""Cuts pictures into crops on the model's device: uint8 pixels in, the image processor's ``pixel_values`` out.

Purpose: the host only opens a picture and sends a quarter of the bytes that its pixels have in float32; the arithmetic
of ``image_processing`` runs where the model runs, and the host never waits for it. Every function takes tensors of any
device, so that a CPU runs the same operations.

An image is resized as two sums of weighted rows, across and then down. The weights are computed on the host, exactly as
``torch.nn.functional.interpolate`` computes them on a CPU. Its CUDA kernel may round the centre of a window
differently, by up to 3e-5 of a pixel at coordinates above 512, which is more than the 2e-6 within which both paths
have to agree. Nor is it a matrix product, whose precision would depend on the settings for TF32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from vlmprof.models.molmo.image_processing import Letterbox, MolmoImageProcessor, PlacedPicture
from vlmprof.models.molmo.tiling import Geometry, Tiling


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalisation:
    """The constants of the arithmetic, on a device: there before the first batch, so that no batch waits for them."""

    white: Tensor
    """() what a uint8 of the highest brightness is divided by."""
    mean: Tensor
    """(3,)"""
    std: Tensor
    """(3,)"""
    black: Tensor
    """(3,) the padding of a letterbox, normalised."""

    @classmethod
    def of(cls, processor: MolmoImageProcessor, device: str) -> Normalisation:
        """The constants of an image processor."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32) for values in (processor.image_mean, processor.image_std)
        )
        # Tensors on the device, also the 255: CUDA multiplies by the reciprocal of a number of the host, which rounds
        # differently from a division.
        return cls(
            white=torch.tensor(255.0, device=device),
            mean=mean.to(device),
            std=std.to(device),
            black=((0 - mean) / std).to(device),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UncutPicture:
    """A picture of a batch that is not yet cut, on the host or on the device."""

    pixels: Tensor
    """(height, width, 3) of uint8."""
    weights: Tensor
    """All tables of ``resize_table`` that its two views need, flattened and joined: (values,) of int32."""
    shapes: tuple[tuple[int, int, int] | None, ...]
    """Shape of each table in ``weights``: of the global view across and down, of the canvas across and down; None where
    the side keeps its length."""
    tiling: Tiling
    boxes: tuple[Letterbox, Letterbox]
    """Of the global view and of the canvas."""
    first_crops: tuple[int, ...]
    """As in ``PlacedPicture``."""

    @classmethod
    def of(cls, placed: PlacedPicture) -> UncutPicture:
        """A picture of the host, with its weights for resizing."""
        height, width = placed.pixels.shape[:2]
        boxes = placed.global_view, placed.canvas
        tables = [table for box in boxes for table in _tables(height, width, box)]
        flat = [table.reshape(-1) for table in tables if table is not None]
        return cls(
            pixels=torch.from_numpy(np.ascontiguousarray(placed.pixels)),
            weights=torch.cat(flat) if flat else torch.empty(0, dtype=torch.int32),
            shapes=tuple(None if table is None else (2, *table.shape[1:]) for table in tables),
            tiling=placed.tiling,
            boxes=boxes,
            first_crops=placed.first_crops,
        )

    @property
    def crops(self) -> int:
        """Views of the picture, the global one included."""
        return 1 + self.tiling[0] * self.tiling[1]

    def on(self, device: str) -> UncutPicture:
        """The same picture on a device; the copy is queued, and the host does not wait for it."""
        return replace(self, pixels=_sent(self.pixels, device), weights=_sent(self.weights, device))

    def tables(self) -> list[Tensor | None]:
        """The tables of ``weights``, in the order of ``shapes``."""
        tables: list[Tensor | None] = []
        start = 0
        for shape in self.shapes:
            size = 0 if shape is None else shape[0] * shape[1] * shape[2]
            tables.append(None if shape is None else self.weights[start : start + size].view(shape))
            start += size
        return tables


def _sent(tensor: Tensor, device: str) -> Tensor:
    # From pinned memory: a copy from pageable memory makes the host wait until its last part is on its way.
    source = tensor.pin_memory() if device.startswith("cuda") else tensor
    return source.to(device, non_blocking=True)


def _tables(height: int, width: int, box: Letterbox) -> tuple[Tensor | None, Tensor | None]:
    """The tables that resize ``height x width`` into a letterbox, across and down; None for a side that is kept."""
    scaled_height, scaled_width = box.scaled
    across = None if width == scaled_width else resize_table(width, scaled_width)
    down = None if height == scaled_height else resize_table(height, scaled_height)
    if down is not None and scaled_width == 1:
        # torch's interpolate on a CPU repeats the first row of an image that it makes one pixel wide, and so did the
        # training's.
        down = down[:, :1].expand_as(down)
    return across, down


@lru_cache(maxsize=512)
def resize_table(length: int, scaled: int) -> Tensor:
    """The rows that each row of an image resized with antialiasing is the weighted sum of.

    The same numbers, to the bit, as in ``torch.nn.functional.interpolate`` (bilinear, antialias) on a CPU.

    Args:
        length: Rows of the image.
        scaled: Rows that it is resized to, another number.

    Returns:
        (2, scaled, most rows of a sum) of int32: the indices of the rows, and the bits of their float32 weights.
        Shorter sums are filled up with weights of 0. Shared between callers, who must not change it.
    """
    scale = np.float32(length) / np.float32(scaled)
    support = max(scale, np.float32(1))
    # Where torch writes 0.5 it computes in double precision, and rounds when it stores.
    centre = (np.float64(scale) * (np.arange(scaled) + 0.5)).astype(np.float32)
    first = np.maximum(((centre - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    end = np.minimum(((centre + support).astype(np.float64) + 0.5).astype(np.int64), length)
    count = np.clip(end - first, 0, 2 * int(np.ceil(support)) + 1)
    steps = np.arange(int(count.max()))
    distance = (first[:, None] + steps).astype(np.float32) - centre[:, None]
    distance = (distance.astype(np.float64) + 0.5) * np.float64(np.float32(1 / np.float64(support)))
    weights = np.maximum(np.float32(1) - np.abs(distance.astype(np.float32)), np.float32(0))
    weights[steps >= count[:, None]] = 0
    total = np.zeros(scaled, dtype=np.float32)
    for step in steps:  # one after the other: the order of a sum decides its last bit
        total += weights[:, step]
    weights /= total[:, None]
    rows = np.minimum(first[:, None] + steps, length - 1).astype(np.int32)
    return torch.from_numpy(np.stack([rows, weights.view(np.int32)]))


def cut_pictures(
    pictures: Sequence[UncutPicture], crops: int, geometry: Geometry, normalisation: Normalisation
) -> Tensor:
    """The ``pixel_values`` of a batch: (crops, patches, values) in float32, on the device of the pictures.

    Args:
        pictures: On the device; together they fill all crops.
        crops: Of the whole batch, global views included.
        geometry: The sizes.
        normalisation: On the same device.
    """
    shape = crops, geometry.patches_per_crop, geometry.patch_px**2 * 3
    values = torch.empty(shape, dtype=torch.float32, device=normalisation.mean.device)
    for picture in pictures:  # one at a time: pictures differ in size, and the memory for one is enough
        first, *others = (values[start : start + picture.crops] for start in picture.first_crops)
        _cut(picture, geometry, normalisation, out=first)
        for other in others:
            other.copy_(first)
    return values


def _cut(picture: UncutPicture, geometry: Geometry, normalisation: Normalisation, *, out: Tensor) -> None:
    """The views of one picture: (1 + crops, patches, values)."""
    columns = picture.pixels.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    columns.div_(normalisation.white)
    global_across, global_down, across, down = picture.tables()
    global_view, canvas = picture.boxes
    whole = _letterboxed(columns, (global_across, global_down), global_view, normalisation)
    _cut_patches(whole, (1, 1), geometry, out=out[:1])
    tiled = _letterboxed(columns, (across, down), canvas, normalisation)
    _cut_patches(tiled, picture.tiling, geometry, out=out[1:])


def _letterboxed(
    columns: Tensor, tables: tuple[Tensor | None, Tensor | None], box: Letterbox, normalisation: Normalisation
) -> Tensor:
    """Resize an image (width, height, 3) into a letterbox and normalise: (height, width, 3)."""
    height, (across, down) = columns.shape[1], tables
    resized = _weighted_rows(columns.view(len(columns), -1), across).view(-1, height, 3)
    resized = _weighted_rows(resized.transpose(0, 1).reshape(height, -1), down).view(*box.scaled, 3)
    canvas = normalisation.black.expand(*box.size, 3).contiguous()
    inside = canvas[box.top : box.bottom, box.left : box.right]
    torch.sub(resized.clamp(0, 1), normalisation.mean, out=inside)
    inside.div_(normalisation.std)
    return canvas


def _weighted_rows(rows: Tensor, table: Tensor | None) -> Tensor:
    """Sums of rows: (rows, values) -> (sums, values); the rows themselves without a table."""
    if table is None:
        return rows
    weights = table[1].view(torch.float32)
    return torch.nn.functional.embedding_bag(table[0], rows, mode="sum", per_sample_weights=weights)


def _cut_patches(canvas: Tensor, tiling: Tiling, geometry: Geometry, *, out: Tensor) -> None:
    """As ``image_processing.cut_patches``, from a canvas (height, width, 3)."""
    (rows, cols), side, patch = tiling, geometry.patches_per_side, geometry.patch_px
    down, across = canvas.stride()[:2]
    source = canvas.as_strided(
        (rows, cols, side, side, patch, patch * 3),
        (geometry.usable_px * down, geometry.usable_px * across, patch * down, patch * across, down, 1),
    )
    out.view(source.shape).copy_(source)
