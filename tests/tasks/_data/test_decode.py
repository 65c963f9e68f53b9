"""The one decode of pictures: pixels against what they must be, sizes from headers, and what is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from vlmprof.tasks._data import decode as rules
from vlmprof.tasks._data.decode import PictureError, decode, examine
from vlmprof.tasks._data.pictures import header_size

UPRIGHT = Image.fromarray(np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8))
"""40 x 24, no two regions alike, so that each of the eight orientations gives another picture."""
_DO = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""Orientation -> the transposition that a camera's file with this orientation has gone through."""


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_the_camera_saw(orientation: int) -> Image.Image:
    turn = _DO[orientation]
    return UPRIGHT if turn is None else UPRIGHT.transpose(Image.Transpose(turn))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def with_late_exif(png: bytes, orientation: int) -> bytes:
    """The PNG with its eXIf chunk after the pixels, where the format allows it too."""
    content = exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + content
    end = png.rindex(b"IEND") - 4
    return png[:end] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[end:]


def xmp_of(orientation: int) -> bytes:
    inner = f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inner}</rdf:RDF></x:xmpmeta>'.encode()


def oriented(place: str, orientation: int) -> bytes:
    image = as_the_camera_saw(orientation)
    if place == "png, after the pixels":
        return with_late_exif(encoded(image, "PNG"), orientation)
    if place == "tiff tag":
        return encoded(image, "TIFF", tiffinfo={274: orientation})
    if place == "tiff tag, compressed":
        return encoded(image, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw")
    if place == "png, xmp":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp_of(orientation).decode())
        return encoded(image, "PNG", pnginfo=info)
    kind, options = {
        "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
        "png": ("PNG", {}),
        "webp": ("WEBP", {"lossless": True}),
    }[place]
    return encoded(image, kind, exif=exif_of(orientation), **options)


PLACES = ["jpeg", "png", "png, after the pixels", "png, xmp", "tiff tag", "tiff tag, compressed", "webp"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_once_wherever_the_file_has_it(place: str, orientation: int) -> None:
    file = oriented(place, orientation)
    assert header_size(file) == (40, 24)
    off = abs(pixels(decode(file)) - pixels(UPRIGHT))
    assert off.mean() < 12 if place == "jpeg" else not off.any()


def test_a_header_is_read_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [oriented(place, 6) for place in PLACES if place != "png, after the pixels"]
    for plugin in (PngImagePlugin.PngImageFile, Image.Image):
        monkeypatch.setattr(plugin, "load", None)
    assert {header_size(file) for file in files} == {(40, 24)}


def on_white(colour: Any, alpha: Any) -> np.ndarray:
    return np.rint(colour * (alpha / 255.0) + 255.0 * (1 - alpha / 255.0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P, one colour", "L, one colour", "RGB, one colour"])
def test_transparency_is_composited_on_white(mode: str) -> None:
    alpha = np.zeros((24, 40), dtype=np.uint8)
    alpha[4:12, 4:20] = 255  # black ink on a transparent ground
    options: dict[str, Any] = {}
    black = np.zeros((24, 40), dtype=np.uint8)
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([black, black, black, alpha]))
    elif mode == "LA":
        image = Image.fromarray(np.dstack([black, alpha]), "LA")
    elif mode.startswith("P"):
        image = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        image.putpalette([200, 0, 0, 0, 0, 0])
        options["transparency"] = 0 if "one" in mode else bytes([0, 255])
    else:
        ground = 7 if mode.startswith("L") else (7, 8, 9)
        ink = 0 if mode.startswith("L") else (0, 0, 0)
        image = Image.new(mode[: mode.index(",")], (40, 24), ground)  # type: ignore[arg-type]
        image.paste(ink, (4, 4, 20, 12))  # type: ignore[arg-type]
        options["transparency"] = ground
    found = pixels(decode(encoded(image, "PNG", **options)))
    assert (found == np.where(alpha > 0, 0, 255)[..., None]).all()


def test_half_transparent_red_is_as_the_processors_of_the_families_make_it() -> None:
    from transformers.image_transforms import convert_to_rgb

    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (24, 40, 4), dtype=np.uint8), "RGBA")
    ours = pixels(decode(encoded(image, "PNG")))
    assert (ours == pixels(Image.fromarray(convert_to_rgb(image, return_numpy=True)))).all()
    rgba = np.asarray(image)
    assert abs(ours - on_white(rgba[..., :3], rgba[..., 3:])).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr"])
def test_modes_without_transparency_are_as_pillow_converts_them(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    image = UPRIGHT.convert(mode)
    file = encoded(image, kind)
    with Image.open(io.BytesIO(file)) as opened:
        assert opened.mode == mode
        assert (pixels(decode(file)) == pixels(opened.convert("RGB"))).all()


def test_lab_is_converted_by_its_meaning() -> None:
    from PIL import ImageCms

    grey = Image.new("RGB", (8, 4), (120, 120, 120))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(grey, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert image is not None
    assert abs(pixels(decode(encoded(image, "TIFF"))) - 120).max() <= 3


RAMP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
EIGHT = np.rint(RAMP * (255 / 65535)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, big end first", "PGM", "TIFF, 32 bits"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    image = Image.fromarray(RAMP)
    if kind == "TIFF, big end first":
        file = encoded(Image.frombytes("I;16B", (32, 32), RAMP.astype(">u2").tobytes()), "TIFF")
    elif kind == "PGM":
        file = b"P5\n32 32\n65535\n" + RAMP.astype(">u2").tobytes()
    elif kind == "TIFF, 32 bits":
        file = encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    else:
        file = encoded(image, kind)
    assert (pixels(decode(file)) == EIGHT[..., None]).all()


def test_sixteen_bits_where_white_is_zero() -> None:
    file = encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(file)) as opened:
        assert opened.tag_v2[262] == 0  # type: ignore[attr-defined]
    assert (pixels(decode(file)) == 255 - EIGHT[..., None]).all()


def test_the_transparent_grey_of_sixteen_bits_becomes_white() -> None:
    grey = np.full((4, 4), 1000, dtype=np.uint16)
    grey[1:3, 1:3] = 40000
    file = encoded(Image.fromarray(grey), "PNG", transparency=1000)
    found = pixels(decode(file))
    assert found[0, 0].tolist() == [255] * 3 and found[1, 1].tolist() == [156] * 3


@pytest.mark.parametrize("kind", ["TIFF", "PFM"])
def test_floats_from_zero_to_one_are_scaled(kind: str) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    file = encoded(Image.fromarray(values), "TIFF")
    if kind == "PFM":  # rows from the bottom, little-endian
        file = b"Pf\n16 16\n-1.0\n" + values[::-1].astype("<f4").tobytes()
    assert (pixels(decode(file)) == np.arange(256).reshape(16, 16)[..., None]).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 4), 17.0, dtype=np.float32), "mode F with floats from 17 to 17"),
        (np.full((4, 4), -0.5, dtype=np.float32), "mode F"),
        (np.full((4, 4), np.nan, dtype=np.float32), "mode F"),
        (np.full((4, 4), -3, dtype=np.int32), "mode I with integers from -3 to -3"),
        (np.full((4, 4), 10**7, dtype=np.int32), "mode I with integers"),
        (np.full((4, 4), 200, dtype=np.int32), "mode I with integers"),
    ],
)
def test_values_that_leave_open_what_is_white_are_refused_by_name(
    tmp_path: Path, values: np.ndarray, words: str
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tiff")
    with pytest.raises(PictureError, match=words) as caught:
        decode(tmp_path / "x.tiff")
    assert "x.tiff" in str(caught.value)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read_and_the_others_are_counted(kind: str) -> None:
    red, blue = (Image.new("RGB", (40, 24), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(red, kind, save_all=True, append_images=[blue, red], **options)
    facts = examine(file)
    assert (facts.frames, facts.width, facts.height, facts.fault) == (3, 40, 24, "")
    assert (pixels(decode(file)) == (255, 0, 0)).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has this size."""
    png = encoded(Image.new("1", (8, 8)), "PNG")
    chunk = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


@pytest.mark.parametrize("limit", ["Pillow's", "none"])
@pytest.mark.parametrize("size", [(20_000, 20_000), (200_000, 1_000)])
def test_a_decompression_bomb_is_refused_from_its_header(
    size: tuple[int, int], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "none":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as some libraries set it
    facts = examine(bomb(*size), "x.png")
    assert (facts.width, facts.height) == (1, 1) and facts.fault.startswith("x.png") and "pixels" in facts.fault
    with pytest.raises(PictureError, match=r"x\.png"):
        decode(bomb(*size), "x.png")


def test_a_large_picture_within_the_limit_is_none() -> None:
    assert examine(bomb(10_000, 10_000)).fault == ""


SOUND = {kind: encoded(UPRIGHT, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.9])
def test_what_is_cut_off_is_refused_with_its_name(kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries set it
    file = SOUND[kind][: int(len(SOUND[kind]) * share)]
    with pytest.raises(PictureError, match=r"^x: "):
        decode(file, "x")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_damage_is_an_error_of_one_kind_or_a_picture_of_the_size_that_was_said(kind: str, data: st.DataObject) -> None:
    file = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    facts = examine(bytes(file))
    try:
        image = decode(bytes(file))
    except PictureError:
        return
    assert (image.size, image.mode) == ((facts.width, facts.height), "RGB") and not facts.fault


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(kind, mode) for kind, modes in MODES.items() for mode in modes]),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 9),
    st.booleans(),
)
def test_the_header_says_the_size_that_is_decoded(
    form: tuple[str, str], width: int, height: int, orientation: int, late: bool
) -> None:
    kind, mode = form
    image = Image.new(mode, (width, height))
    if kind == "TIFF":
        file = encoded(image, kind, tiffinfo={274: orientation} if orientation else {})
    elif kind == "PNG" and late:
        file = with_late_exif(encoded(image, kind), orientation)
    else:
        file = encoded(image, kind, **({"exif": exif_of(orientation)} if orientation else {}))
    swapped = orientation in (5, 6, 7, 8)
    assert header_size(file) == decode(file).size == ((height, width) if swapped else (width, height))


def test_a_picture_s_name_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"notes\.png: cannot identify it as a picture"):
        decode(tmp_path / "notes.png")
    assert examine(tmp_path / "none.png").fault == f"{tmp_path / 'none.png'}: there is no such file"
    assert rules.RULES == 3


def png_of(bits: int, colour: int, row: bytes, transparent: bytes, palette: bytes = b"", width: int = 8) -> bytes:
    """A PNG of one row, written chunk by chunk: Pillow writes no such bit depths with a transparent colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    colours = chunk(b"PLTE", palette) if palette else b""
    pixels_ = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + colours
        + chunk(b"tRNS", transparent)
        + pixels_
        + chunk(b"IEND", b"")
    )


def packed(values: list[int], bits: int) -> bytes:
    return int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(len(values) * bits // 8, "big")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits_is_compared_at_the_depth_of_the_file(bits: int) -> None:
    top = 2**bits - 1
    values = [value % (top + 1) for value in range(8)]
    for key in {0, 1, top // 2, top, 300}:
        png = png_of(bits, 0, packed(values, bits), struct.pack(">H", key))
        expected = [255 if value == key else value * 255 // top for value in values]
        assert pixels(decode(png))[0, :, 0].tolist() == expected, key


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_colours_of_a_palette_of_few_bits_are_composited(bits: int) -> None:
    values = [value % 2**bits for value in range(8)]
    palette = bytes(10 * (index // 3) % 256 for index in range(3 * 2**bits))
    alpha = bytes([0, 255, 128])[: 2**bits]
    found = pixels(decode(png_of(bits, 3, packed(values, bits), alpha, palette)))[0, :, 0]
    opacity = [alpha[value] / 255 if value < len(alpha) else 1.0 for value in values]
    expected = [255 * (1 - share) + 10 * value * share for share, value in zip(opacity, values, strict=True)]
    assert abs(found - np.array(expected)).max() <= 1


def test_the_transparent_colour_of_sixteen_bits_a_channel_is_compared_by_the_upper_byte() -> None:
    row = struct.pack(">6H", 1000, 1000, 1000, 65535, 0, 0)
    png = png_of(16, 2, row, struct.pack(">3H", 1000, 1000, 1000), width=2)
    assert pixels(decode(png))[0].tolist() == [[255, 255, 255], [255, 0, 0]]


def test_a_colour_profile_changes_no_pixel() -> None:
    image = Image.new("RGB", (2, 2), (200, 30, 30))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert pixels(decode(encoded(image, "PNG", icc_profile=profile)))[0, 0].tolist() == [200, 30, 30]
