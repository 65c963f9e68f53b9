"""Dense labels for training: what each pooled vision token of a scene should encode.

Trained on answers alone, a model this small learns only the distribution of the answers and ignores the image
(measured: chance level after thousands of steps). Five auxiliary heads on the pooled tokens solve this within about a
thousand steps. The heads and these labels are used in training only and are not packaged.
"""

from typing import Final

import numpy as np

from vlmprof.models.molmo.tiling import Geometry, Tiling
from vlmprof.tasks._shapes.scenes import COLOURS, SHAPES, Scene, Shape

IGNORE: Final = -100
# Head -> number of classes. The last class of the first four is background ("nothing here").
HEADS: Final[dict[str, int]] = {
    "colour": len(COLOURS) + 1,
    "kind": len(SHAPES) + 1,
    "centre": len(SHAPES) + 1,
    "digit": 11,
    "place": 16,
}
_COLUMN: Final = {head: i for i, head in enumerate(HEADS)}
_COLOUR_ID: Final = {colour: i for i, colour in enumerate(COLOURS)}
_KIND_ID: Final = {kind: i for i, kind in enumerate(SHAPES)}
# A token is labelled with an object that covers at least the first share of it; below the second share it counts as
# background, and in between it has no label.
_LABELLED_SHARE: Final = 0.2
_AMBIGUOUS_SHARE: Final = 0.04
# Below this height in canvas pixels a digit is illegible, and a label would train the model to guess.
_LEGIBLE_DIGIT_PX: Final = 4.8
_CAP_HEIGHT_SHARE: Final = 0.72


def dense_labels(scene: Scene, tiling: Tiling, geometry: Geometry) -> np.ndarray:
    """int8 labels of shape (vision tokens, heads): tokens of the global view, then of the stitched grid of crops."""
    side = geometry.pooled_per_side
    global_view = _grid_labels(scene, (side, side), geometry)
    global_view[:, _COLUMN["place"]] = np.arange(side * side)
    return np.concatenate([global_view, _grid_labels(scene, geometry.pooled_grid(tiling), geometry)])


def _grid_labels(scene: Scene, grid: tuple[int, int], geometry: Geometry) -> np.ndarray:
    cell_px = geometry.pool * geometry.patch_px
    rows, cols = grid
    scale = min(rows * cell_px / scene.height, cols * cell_px / scene.width)
    top = (rows * cell_px - int(scene.height * scale)) // 2
    left = (cols * cell_px - int(scene.width * scale)) // 2
    labels = np.empty((rows, cols, len(HEADS)), dtype=np.int8)
    labels[...] = [HEADS["colour"] - 1, HEADS["kind"] - 1, HEADS["centre"] - 1, HEADS["digit"] - 1, IGNORE]
    covered = np.zeros((rows, cols))
    for shape in scene.shapes:
        x0, y0, x1, y1 = (v * scale / cell_px for v in shape.box)
        down = _overlap(y0 + top / cell_px, y1 + top / cell_px, rows)
        across = _overlap(x0 + left / cell_px, x1 + left / cell_px, cols)
        share = down[:, None] * across[None, :]
        _label_cover(labels, covered, share, shape)
        _label_centre(labels, ((shape.y_px * scale + top) / cell_px, (shape.x_px * scale + left) / cell_px), shape)
    _label_digits(labels, scene, scale, (top, left), cell_px)
    flat: np.ndarray = labels.reshape(rows * cols, len(HEADS))
    return flat


def _overlap(start: float, end: float, cells: int) -> np.ndarray:
    """The part of each of `cells` unit intervals that lies between start and end."""
    low = np.arange(cells)
    covered: np.ndarray = np.clip(np.minimum(end, low + 1) - np.maximum(start, low), 0.0, 1.0)
    return covered


def _label_cover(labels: np.ndarray, covered: np.ndarray, share: np.ndarray, shape: Shape) -> None:
    """Colour and kind of a token are those of the object that covers most of it; updates `labels` and `covered`."""
    largest = share > covered
    labelled = largest & (share >= _LABELLED_SHARE)
    ambiguous = largest & (share >= _AMBIGUOUS_SHARE) & ~labelled
    labels[labelled, _COLUMN["colour"]] = _COLOUR_ID[shape.colour]
    labels[labelled, _COLUMN["kind"]] = _KIND_ID[shape.kind]
    labels[ambiguous, : _COLUMN["kind"] + 1] = IGNORE
    covered[largest] = share[largest]


def _label_centre(labels: np.ndarray, centre: tuple[float, float], shape: Shape) -> None:
    row = min(int(centre[0]), labels.shape[0] - 1)
    column = min(int(centre[1]), labels.shape[1] - 1)
    free = labels[row, column, _COLUMN["centre"]] == HEADS["centre"] - 1
    labels[row, column, _COLUMN["centre"]] = _KIND_ID[shape.kind] if free else IGNORE


def _label_digits(labels: np.ndarray, scene: Scene, scale: float, offset: tuple[int, int], cell_px: int) -> None:
    if scene.plate is None:
        return
    legible = scene.plate.font_px * _CAP_HEIGHT_SHARE * scale >= _LEGIBLE_DIGIT_PX
    for digit, (x, y) in zip(scene.plate.digits, scene.plate.digit_centres(), strict=True):
        row = min(int((y * scale + offset[0]) / cell_px), labels.shape[0] - 1)
        column = min(int((x * scale + offset[1]) / cell_px), labels.shape[1] - 1)
        free = labels[row, column, _COLUMN["digit"]] == HEADS["digit"] - 1
        labels[row, column, _COLUMN["digit"]] = int(digit) if legible and free else IGNORE
