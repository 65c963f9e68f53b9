"""The one way in which an encoded picture becomes pixels, and the one place that judges whether it can.

``examine`` reads the header: size, frames, and what is wrong. ``decode`` gives the RGB image. Both go by the same
rules, which docs/tasks.md states for users:

- Transparency is composited on white, as the image processors of transformers do (``convert_to_rgb``). One transparent
  colour of a PNG is compared at the bit depth of the file, which those miss for 2 and 4 bits.
- Colour profiles (ICC) are ignored, as by all image processors of transformers: a model gets the values in the file.
- Integers of 16 bits are scaled to 8 by their bit depth, floats from the range 0 to 1. A picture whose values leave
  open what is white (signed, 32 bits, floats beyond 1) is refused.
- The EXIF or XMP orientation is applied once, wherever the file has it.
- Of an animation or a file of several pages, the first frame is read.
- A picture of more than ``MAX_PIXELS`` is refused before it is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vlmprof.errors import UserError
from vlmprof.regular_files import read_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

RULES = 3
"""Number of the rules above; part of the key of every cached picture. Increase it with any change of the pixels."""
MAX_PIXELS = 178_956_970
"""The size from which Pillow by itself speaks of a decompression bomb; half a gibibyte of RGB."""
MOST_ENCODED_BYTES = 1 * 2**30
"""Encoded bytes of a picture: twice what the largest takes as RGB without any compression."""
_TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels and is not decoded, so that no file fills the memory"
_ORIENTATION, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _WIDTH, _HEIGHT = 274, 262, 258, 339, 256, 257
"""EXIF and TIFF tags."""
_SWAPPED = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Orientation -> ``PIL.Image.Transpose`` that undoes it."""
_PIXELS_OF_PNG = frozenset({b"IDAT", b"IEND", b"fcTL", b"fdAT"})
_PNG_SIGNATURE_BYTES = 8


@final
class PictureError(OSError):
    """A file that cannot be shown to a model, with its name and the reason."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What the header of a picture says."""

    width: int
    height: int
    """Upright, in pixels; both 1 where the picture is faulty."""
    frames: int = 1
    """Frames of an animation, or pages; the first is read."""
    fault: str = ""
    """Why the picture cannot be read; empty for a sound one. Missing pixels show only when they are decoded."""


def examine(source: bytes | Path, name: str = "") -> PictureFacts:
    """The header of an encoded picture; never raises for what is wrong with the picture.

    Args:
        source: The encoded bytes, or the file.
        name: What faults call it; empty for the path of the file.
    """
    try:
        with _opened(source, name) as image:
            width, height = _upright_size(image)
            return PictureFacts(width=width, height=height, frames=_frames(image))
    except (OSError, UserError) as error:
        return PictureFacts(width=1, height=1, fault=described(error))


def decode(source: bytes | Path, name: str = "") -> Image:
    """The upright RGB image of an encoded picture.

    Args:
        source: The encoded bytes, or the file.
        name: What faults call it; empty for the path of the file.

    Raises:
        PictureError: it is no picture, a faulty one, or too large; the message names it.
        FileNotFoundError: there is no such file.
    """
    with _opened(source, name) as image:
        expected = _upright_size(image)
        orientation = _orientation(image)
        image.load()
        turned = image.format == "TIFF"  # Pillow turns it while it loads it
        upright = image if turned or orientation not in _TURNS else image.transpose(_turn(orientation))
        rgb = _as_rgb(upright, _named(source, name))
        if rgb.size != expected:
            raise PictureError(f"{_named(source, name)}: its header says {_px(expected)}, its pixels {_px(rgb.size)}")
        return rgb


def described(error: BaseException, name: str = "") -> str:
    """One line about why a picture cannot be read.

    Args:
        error: What reading it raised.
        name: What the picture is called where the error does not say it.
    """
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: there is no such file"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    if isinstance(error, PictureError) or (isinstance(error, OSError) and name and name in str(error)):
        return str(error)
    return f"{name}: no file can have this name ({error})" if name else f"{type(error).__name__}: {error}"


@contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[Image]:
    """The opened picture; whatever a decoder raises inside is a ``PictureError`` that names it."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    called = _named(source, name)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library may have set it, and what is missing would be grey
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # by itself Pillow warns of half of it, and a library may have lifted it
    try:
        if isinstance(source, bytes) and not source:
            raise PictureError(f"{called}: there is no picture")
        if isinstance(source, bytes) and len(source) > MOST_ENCODED_BYTES:
            raise PictureError(f"{called}: it is larger than {MOST_ENCODED_BYTES / 2**30:g} GiB")
        encoded = source if isinstance(source, bytes) else read_regular(source, MOST_ENCODED_BYTES)
        with Image.open(io.BytesIO(encoded)) as image:
            _require_sensible_size(image.size, called)
            _scale_transparent_colour(image)
            yield image
    except (PictureError, FileNotFoundError, UserError):
        raise
    except UnidentifiedImageError:
        raise PictureError(f"{called}: cannot identify it as a picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"{called}: {_TOO_LARGE}") from None
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise PictureError(f"{called}: cannot be decoded ({type(error).__name__}: {error})") from error


def _scale_transparent_colour(image: Image) -> None:
    """Bring the transparent colour of a PNG to the 8 bits of its pixels; Pillow leaves it at the bit depth of the file.

    Otherwise a grey of 2 or 4 bits stays visible, mostly black ink on black, and another grey becomes white. A colour
    that the bit depth cannot hold stands for no pixel.
    """
    key, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or not tiles or not isinstance(key, int | tuple):
        return
    raw_mode = str(tiles[0][3])
    factor, top = {"L;2": (85, 3), "L;4": (17, 15), "RGB;16B": (1 / 256, 2**16 - 1)}.get(raw_mode, (1, 255))
    values = key if isinstance(key, tuple) else (key,)
    if image.mode not in ("L", "RGB"):
        return
    if max(values) > top:
        del image.info["transparency"]
        return
    scaled = tuple(int(value * factor) for value in values)
    image.info["transparency"] = scaled if isinstance(key, tuple) else scaled[0]


def _require_sensible_size(size: tuple[int, int], called: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{called}: it has no pixels ({_px(size)})")
    if width * height > MAX_PIXELS:
        raise PictureError(f"{called}: {_px(size)} are too many; {_TOO_LARGE}")


def _upright_size(image: Image) -> tuple[int, int]:
    """(width, height) after the orientation is applied, whatever Pillow has applied already."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow swap the size of a TIFF when they open it, some do not
        tags: Any = image
        width, height = tags.tag_v2[_WIDTH], tags.tag_v2[_HEIGHT]
    return (height, width) if _orientation(image) in _SWAPPED else (width, height)


def _orientation(image: Image) -> int | None:
    """The EXIF or XMP orientation; None where there is none, or where the tags cannot be read."""
    try:
        if image.format == "PNG" and _has_late_chunks(image):
            image.load()  # tags after the pixels are known only then
        tags = _tags_of(image)
        orientation = tags.get(_ORIENTATION)
    except Exception:  # damaged tags say nothing; the pixels may be sound
        return None
    return orientation if isinstance(orientation, int) else None


def _tags_of(image: Image) -> Any:
    from PIL import Image as PillowImage

    if image.format != "PNG":
        return image.getexif()
    return PillowImage.Image.getexif(image)  # that of PngImageFile decodes every picture without EXIF tags


def _has_late_chunks(image: Image) -> bool:
    """Whether a PNG has chunks other than pixels after its first pixels; only their headers are read."""
    stream: Any = getattr(image, "fp", None)
    if stream is None:
        return False  # loaded already
    before = stream.tell()
    try:
        stream.seek(_PNG_SIGNATURE_BYTES)
        pixels = False
        while len(header := stream.read(8)) == 8:  # length and name of a chunk
            name = header[4:]
            pixels = pixels or name == b"IDAT"
            if name == b"IEND":
                return False
            if pixels and name not in _PIXELS_OF_PNG:
                return True
            stream.seek(int.from_bytes(header[:4], "big") + 4, io.SEEK_CUR)
        return False
    finally:
        stream.seek(before)


def _frames(image: Image) -> int:
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # the first frame may be sound although a later one is not
        return 1
    return frames if isinstance(frames, int) else 1


def _turn(orientation: int | None) -> Any:
    from PIL.Image import Transpose

    assert orientation is not None
    return Transpose(_TURNS[orientation])


def _as_rgb(image: Image, called: str) -> Image:
    from PIL import Image as PillowImage

    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled(image, called).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    if "transparency" not in image.info and not image.has_transparency_data:
        return image.convert("RGB")
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # premultiplied alpha
    layered = (image.convert(straight) if straight else image).convert("RGBA")
    white = PillowImage.new("RGBA", layered.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, layered).convert("RGB")


def _scaled(image: Image, called: str) -> Image:
    """A grey picture of more than 8 bits, scaled to 8; its transparent value becomes white.

    Raises:
        PictureError: its values do not say what is white.
    """
    from PIL import Image as PillowImage

    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    white = _white_of(image, tags, values, called)
    scaled: NDArray[Any] = np.rint(values.astype(np.float64) * (255 / white))
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow inverts 8 bits, and not more
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return PillowImage.fromarray(scaled.astype(np.uint8), "L")


def _white_of(image: Image, tags: Any, values: NDArray[Any], called: str) -> float:
    """The value that is white.

    Raises:
        PictureError: it cannot be known.
    """
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if 0 <= low <= high <= 1:
            return 1.0
        reason = f"floats from {low:g} to {high:g}, where 0 to 1 is expected"
    elif image.mode.startswith("I;16"):
        bits = tags.get(_BITS, (16,))[0]
        return float(2**bits - 1)
    elif image.format != "TIFF" and low >= 0 and high < 2**16:  # such as PNG and PGM in some versions of Pillow
        return float(2**16 - 1)
    elif tags.get(_BITS) == (32,) and low >= 0 and (high == 0 or 2**8 <= high < 2**16):
        return float(2**16 - 1)  # 16 bits in the only integers that Pillow had for them
    else:
        reason = f"integers from {low:g} to {high:g}, signed or of 32 bits"
    raise PictureError(
        f"{called}: mode {image.mode} with {reason}: what is white is not known; save it with 8 or 16 bits a channel"
    )


def _from_lab(image: Image) -> Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None, "only a transform in place returns nothing"
    return converted


def _named(source: bytes | Path, name: str) -> str:
    return name or (str(source) if isinstance(source, Path) else "the picture")


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
