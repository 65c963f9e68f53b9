"""The scenes of `shapes_qa`: coloured shapes and a small number plate on a plain or noisy background, drawn by Pillow.

A `Scene` is a description; only `render()` computes pixels, so sizes, splits and hashes are cheap. Everything is
derived from an integer seed through `random.Random`, whose sequence Python keeps stable across versions, processes and
hash seeds.

Limits: the plate is drawn with the font bundled in Pillow, so its pixels may change with the Pillow (FreeType)
version; shape outlines have been stable so far but are not guaranteed either. Descriptions, questions, answers and ids
never change.
"""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Rgb: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[float, float, float, float]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (215, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (245, 225, 40),
    "green": (35, 150, 50),
    "cyan": (60, 215, 225),
    "blue": (35, 60, 215),
    "purple": (140, 40, 170),
    "pink": (250, 145, 195),
}
SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "ring")
# Radius as a share of the short side, per size. The gaps between the ranges make sizes unambiguous.
SIZES: Final[dict[str, tuple[float, float]]] = {
    "small": (0.095, 0.108),
    "medium": (0.135, 0.15),
    "large": (0.185, 0.205),
}
BACKGROUNDS: Final[tuple[Rgb, ...]] = ((24, 24, 28), (70, 70, 74), (122, 120, 116), (176, 176, 180), (232, 230, 226))
SIDE_PX: Final = (64, 192)
MAX_ASPECT: Final = 2.0
# Digits scale with the long side: 3.6 px tall in a 64 px global view (illegible), 6 to 9 px in a full tiling.
PLATE_FONT_SHARE: Final = 0.078
PLATE_ADVANCE_SHARE: Final = 0.125
PLATE_MIN_LONG_SIDE_PX: Final = 112
PLATE_DIGITS: Final = 3
_GAP_PX: Final = 2
_PLACEMENT_TRIES: Final = 30


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One object, with centre and radius in pixels of the scene."""

    kind: str
    colour: str
    size: str
    x_px: int
    y_px: int
    radius_px: int

    @property
    def box(self) -> Box:
        """Left, top, right, bottom in pixels."""
        r = self.radius_px
        return (self.x_px - r, self.y_px - r, self.x_px + r, self.y_px + r)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """A light plate with dark digits, spaced `advance_px` apart."""

    digits: str
    left_px: int
    top_px: int
    font_px: int
    advance_px: int

    @property
    def box(self) -> Box:
        """Left, top, right, bottom in pixels."""
        width = self.advance_px * len(self.digits)
        return (self.left_px, self.top_px, self.left_px + width, self.top_px + self.font_px + 4)

    def digit_centres(self) -> list[tuple[float, float]]:
        """The centre of each digit in pixels, left to right."""
        y = self.top_px + self.font_px / 2 + 2
        return [(self.left_px + self.advance_px * (i + 0.5), y) for i in range(len(self.digits))]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The description of a picture. Equal scenes render to equal pixels with the same Pillow version."""

    width: int
    height: int
    background: Rgb
    noise_amplitude: int
    noise_seed: int
    shapes: tuple[Shape, ...]
    plate: Plate | None

    def digest(self) -> str:
        """A hash of the description: the same on every machine and with every Pillow version."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def render(self) -> Image.Image:
        """The scene as an RGB image of `width` x `height` pixels."""
        image = Image.fromarray(self._background_pixels())
        draw = ImageDraw.Draw(image)
        for shape in self.shapes:
            _DRAW[shape.kind](draw, shape, COLOURS[shape.colour])
        if self.plate is not None:
            _draw_plate(draw, self.plate)
        return image

    def of_kind(self, kind: str) -> tuple[Shape, ...]:
        """All shapes of one kind, in drawing order."""
        return tuple(shape for shape in self.shapes if shape.kind == kind)

    def unique_shapes(self) -> tuple[Shape, ...]:
        """The shapes whose kind occurs once, so that a question can refer to them unambiguously."""
        return tuple(shape for shape in self.shapes if len(self.of_kind(shape.kind)) == 1)

    def _background_pixels(self) -> np.ndarray:
        pixels = np.empty((self.height, self.width, 3), dtype=np.int16)
        pixels[:] = self.background
        if self.noise_amplitude:
            # randbytes, because Python guarantees its sequence across versions; NumPy gives no such guarantee.
            raw = random.Random(self.noise_seed).randbytes(self.width * self.height)
            noise = np.frombuffer(raw, dtype=np.uint8).reshape(self.height, self.width, 1).astype(np.int16)
            pixels += noise % (2 * self.noise_amplitude + 1) - self.noise_amplitude
        return pixels.clip(0, 255).astype(np.uint8)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How crowded a scene is; one level of the training curriculum."""

    repeats: tuple[int, int]
    """Range of the number of copies of the first kind."""
    singles: tuple[int, int]
    """Range of the number of further kinds, which occur once each."""
    sizes: tuple[str, ...]


DIFFICULTIES: Final[dict[str, Difficulty]] = {
    "one": Difficulty(repeats=(1, 1), singles=(0, 1), sizes=("medium", "large")),
    "few": Difficulty(repeats=(1, 4), singles=(1, 1), sizes=("medium", "large")),
    "full": Difficulty(repeats=(1, 4), singles=(2, 3), sizes=("small", "medium", "large")),
}


def make_scene(seed: int, difficulty: str = "full") -> Scene:
    """The scene of a seed. The number of copies of the first kind is uniform, so that counts are balanced."""
    rng = random.Random(f"shapes_qa/scene/{difficulty}/{seed}")
    limits = DIFFICULTIES[difficulty]
    width, height = _image_size(rng)
    background = rng.choice(BACKGROUNDS)
    noise_amplitude = rng.choice((0, 0, 6, 12))
    kinds = rng.sample(SHAPES, 1 + rng.randint(*limits.singles))
    to_place = [kinds[0]] * rng.randint(*limits.repeats) + kinds[1:]
    plate, shapes = None, None
    while shapes is None:
        plate = _place_plate(rng, width, height)
        shapes = _place_shapes(rng, (width, height), to_place, limits.sizes, plate)
    return Scene(
        width=width,
        height=height,
        background=background,
        noise_amplitude=noise_amplitude,
        noise_seed=seed,
        shapes=shapes,
        plate=plate,
    )


def _image_size(rng: random.Random) -> tuple[int, int]:
    while True:
        width, height = rng.randint(*SIDE_PX), rng.randint(*SIDE_PX)
        if max(width, height) <= MAX_ASPECT * min(width, height):
            return width, height


def _place_plate(rng: random.Random, width: int, height: int) -> Plate | None:
    long_side = max(width, height)
    if long_side < PLATE_MIN_LONG_SIDE_PX:
        return None
    font_px, advance_px = round(PLATE_FONT_SHARE * long_side), round(PLATE_ADVANCE_SHARE * long_side)
    return Plate(
        digits="".join(str(rng.randint(0, 9)) for _ in range(PLATE_DIGITS)),
        left_px=rng.randint(1, width - PLATE_DIGITS * advance_px - 2),
        top_px=rng.randint(1, height - font_px - 6),
        font_px=font_px,
        advance_px=advance_px,
    )


def _place_shapes(
    rng: random.Random, size: tuple[int, int], kinds: list[str], size_words: tuple[str, ...], plate: Plate | None
) -> tuple[Shape, ...] | None:
    """Shapes that touch neither each other nor the plate, or None when they do not fit."""
    occupied = [plate.box] if plate else []
    shapes: list[Shape] = []
    for kind in kinds:
        shape = _place_shape(rng, size, kind, rng.choice(size_words), occupied)
        if shape is None:
            return None
        occupied.append(shape.box)
        shapes.append(shape)
    return tuple(shapes)


def _place_shape(
    rng: random.Random, size: tuple[int, int], kind: str, size_word: str, occupied: list[Box]
) -> Shape | None:
    colour = rng.choice(tuple(COLOURS))
    radius_px = math.ceil(rng.uniform(*SIZES[size_word]) * min(size))
    low, wide, high = radius_px + 1, size[0] - 2 * radius_px - 2, size[1] - 2 * radius_px - 2
    margin = radius_px + _GAP_PX
    taken = [(left - margin, top - margin, right + margin, bottom + margin) for left, top, right, bottom in occupied]
    for _ in range(_PLACEMENT_TRIES):
        # As randint(low, size - low - 1) would draw; all scenes of a split together make half a million tries.
        x, y = low + rng.randrange(wide), low + rng.randrange(high)
        for left, top, right, bottom in taken:
            if left <= x <= right and top <= y <= bottom:
                break
        else:
            return Shape(kind=kind, colour=colour, size=size_word, x_px=x, y_px=y, radius_px=radius_px)
    return None


@lru_cache(maxsize=32)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _draw_plate(draw: ImageDraw.ImageDraw, plate: Plate) -> None:
    draw.rectangle(plate.box, fill=(250, 250, 250))
    for digit, centre in zip(plate.digits, plate.digit_centres(), strict=True):
        draw.text(centre, digit, fill=(0, 0, 0), font=_font(plate.font_px), anchor="mm")


def _circle(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    draw.ellipse(shape.box, fill=fill)


def _ring(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    draw.ellipse(shape.box, outline=fill, width=max(2, round(0.4 * shape.radius_px)))


def _square(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    # 0.86 makes its area similar to the circle's, so that no kind looks larger than the others.
    r = 0.86 * shape.radius_px
    draw.rectangle((shape.x_px - r, shape.y_px - r, shape.x_px + r, shape.y_px + r), fill=fill)


def _triangle(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    left, top, right, bottom = shape.box
    draw.polygon([(shape.x_px, top), (right, bottom), (left, bottom)], fill=fill)


def _diamond(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    left, top, right, bottom = shape.box
    draw.polygon([(shape.x_px, top), (right, shape.y_px), (shape.x_px, bottom), (left, shape.y_px)], fill=fill)


def _cross(draw: ImageDraw.ImageDraw, shape: Shape, fill: Rgb) -> None:
    left, top, right, bottom = shape.box
    arm = max(1, round(0.32 * shape.radius_px))
    draw.rectangle((left, shape.y_px - arm, right, shape.y_px + arm), fill=fill)
    draw.rectangle((shape.x_px - arm, top, shape.x_px + arm, bottom), fill=fill)


_DRAW: Final[dict[str, Callable[[ImageDraw.ImageDraw, Shape, Rgb], None]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
}
