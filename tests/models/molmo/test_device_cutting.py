"""Pictures that are cut on the device: the pixels of the host's way, once for each picture, from any thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.contracts.knob_contract import demo_checkpoint, demo_prompts
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import VisionFeatureCache, prepare_each_row
from vlmprof.errors import Mismatch
from vlmprof.measure.clock import HostClock
from vlmprof.models.molmo.device_cutting import Normalisation, UncutPicture, cut_pictures, resize_table
from vlmprof.models.molmo.image_processing import MolmoImageProcessor
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Picture, Prompt

WITHIN = 2e-6
THREADS = 8
OUTSIDE_PIXELS = ("image_masks", "image_token_pooling", "image_tilings", "image_num_crops")
SMALL = {"crop_size": 56, "patch_size": 14, "overlap_margins": (0, 0), "pool_size": 2}
MARGINS = {"crop_size": 112, "patch_size": 14, "overlap_margins": (2, 2), "pool_size": 2}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """The hardest picture: neighbours differ by all the contrast there is."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cut_here(processor: MolmoImageProcessor, pictures: list[np.ndarray], **chosen) -> tuple[dict, torch.Tensor]:
    layout = processor.layout(pictures, **chosen)
    uncut = [UncutPicture.of(placed).on("cpu") for placed in layout.pictures]
    values = cut_pictures(uncut, layout.crops, processor.geometry, Normalisation.of(processor, "cpu"))
    return dict(layout.inputs), values


def largest_difference(processor: MolmoImageProcessor, pictures: list[np.ndarray], **chosen) -> float:
    inputs, values = cut_here(processor, pictures, **chosen)
    host = processor.preprocess(pictures, return_tensors="np", **chosen)
    for name in OUTSIDE_PIXELS:
        assert np.array_equal(inputs[name], host[name]), name
    assert values.shape == host["pixel_values"].shape and values.dtype == torch.float32
    return float(np.abs(values.numpy() - host["pixel_values"]).max())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=3),
    tiling=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    max_crops=st.integers(1, 6),
    sort=st.sampled_from([SMALL, MARGINS]),
)
@example(sizes=[(1, 1)], tiling=None, max_crops=4, sort=SMALL)
@example(sizes=[(56, 56), (112, 56), (56, 112)], tiling=(1, 1), max_crops=4, sort=SMALL)  # as large as the crop
@example(sizes=[(200, 56), (57, 112)], tiling=(2, 2), max_crops=4, sort=SMALL)  # one side keeps its length
@example(sizes=[(50, 1), (1, 50), (400, 8), (8, 400)], tiling=None, max_crops=6, sort=SMALL)  # one pixel wide, or high
def test_the_pixels_are_those_of_the_host(sizes, tiling, max_crops, sort) -> None:
    processor = MolmoImageProcessor(**sort)
    pictures = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    chosen = {"max_crops": max_crops, "tiling": tiling}
    try:
        processor.preprocess(pictures, **chosen)
    except ValueError as refused:  # too narrow: refused where it is encoded, not where it is cut
        with pytest.raises(ValueError, match="nothing is left") as caught:
            cut_here(processor, pictures, **chosen)
        assert str(caught.value) == str(refused)
        return
    assert largest_difference(processor, pictures, **chosen) <= WITHIN


@pytest.mark.parametrize(
    "size", [(768, 1024), (336, 336), (2200, 1700), (336, 900), (3000, 20), (20, 3000), (784, 1008)]
)
@pytest.mark.parametrize("max_crops", [1, 12])
def test_the_pixels_of_real_sizes(size: tuple[int, int], max_crops: int) -> None:
    assert largest_difference(MolmoImageProcessor(), [noise(*size)], max_crops=max_crops) <= WITHIN


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
@example(4000, 336)
@example(1, 5)
@example(5, 1)
def test_the_weights_are_those_of_interpolate_to_the_bit(length: int, scaled: int) -> None:
    """Resizing the unit vectors writes interpolate's weights down, one column for each row of the result."""
    units = torch.eye(length)[None, None]
    theirs = torch.nn.functional.interpolate(
        units, size=(length, scaled), mode="bilinear", align_corners=False, antialias=True
    )[0, 0]
    rows, weights = resize_table(length, scaled)
    ours = torch.zeros(length, scaled)
    ours.T.scatter_add_(1, rows.long(), weights.view(torch.float32))
    if length != scaled:
        assert torch.equal(ours, theirs)


def test_a_picture_that_prompts_share_is_sent_and_cut_once() -> None:
    processor = MolmoImageProcessor(**SMALL)
    one, other = noise(100, 150), noise(70, 60)
    layout = processor.layout([one, other, one, one], max_crops=6)
    assert [placed.pixels.shape for placed in layout.pictures] == [(100, 150, 3), (70, 60, 3)]
    assert largest_difference(processor, [one, other, one, one], max_crops=6) <= WITHIN
    layout = processor.layout([one, one], tiling=[(1, 2), (2, 1)])
    assert len(layout.pictures) == 2, "under two tilings it is two"


def test_what_is_sent_is_a_quarter_of_the_pixels_in_float() -> None:
    (placed,) = MolmoImageProcessor().layout(noise(768, 1024)).pictures
    picture = UncutPicture.of(placed)
    assert picture.pixels.dtype == torch.uint8 and picture.pixels.nbytes == 768 * 1024 * 3
    assert picture.weights.nbytes < 0.05 * picture.pixels.nbytes


# A loaded model.


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> LoadedMolmo:
    return registry.load("models", "demo").load(demo_checkpoint(tiny_checkpoint), "cpu")


@pytest.fixture
def on_device(loaded: LoadedMolmo) -> Iterator[LoadedMolmo]:
    """The tiny model, cutting where it runs: on the CPU."""
    loaded.preprocess = "device"
    yield loaded
    loaded.preprocess = "host"


def asked(sizes: list[tuple[int, int]]) -> list[Prompt]:
    prompts = []
    for i, (height, width) in enumerate(sizes):
        image = Image.fromarray(noise(height, width, seed=i))
        picture = Picture(height=height, width=width, load=lambda image=image: image)
        prompts.append(Prompt(text=f"what is this {i}", picture=picture))
    return prompts


SIZES = [(90, 60), (64, 64), (50, 110), (120, 80), (48, 200), (33, 100)]


def on_host(model: LoadedMolmo, prompts: list[Prompt]):
    model.preprocess = "host"
    batch = model.encode(prompts)
    model.preprocess = "device"
    return batch


def test_a_batch_has_no_pixels_until_it_is_cut(on_device: LoadedMolmo) -> None:
    prompts = asked(SIZES)
    batch, host = on_device.encode(prompts), on_host(on_device, prompts)
    assert "pixel_values" not in batch.inputs and len(batch.uncut) == len(SIZES)
    assert batch.encodings == host.encodings
    cut = on_device.cut(on_device.transfer(batch))
    assert set(cut.inputs) == set(host.inputs) and not cut.uncut
    for name in host.inputs:
        if name != "pixel_values":
            assert torch.equal(cut.inputs[name], host.inputs[name]), name
    assert (cut.inputs["pixel_values"] - host.inputs["pixel_values"]).abs().max() <= WITHIN
    assert on_device.cut(cut) is cut, "what has pixels passes through"
    features = on_device.see(on_device.transfer(batch))
    assert torch.allclose(features, on_device.see(host), atol=2e-5, rtol=0)


def test_prompts_about_one_picture_share_it(on_device: LoadedMolmo) -> None:
    prompts = asked(SIZES[:2])
    batch = on_device.encode([prompts[0], prompts[1], prompts[0]])
    assert [picture.pixels.shape[:2] for picture in batch.uncut] == SIZES[:2]
    host = on_host(on_device, [prompts[0], prompts[1], prompts[0]])
    assert torch.allclose(on_device.see(batch), on_device.see(host), atol=2e-5, rtol=0)


def test_a_probe_of_memory_holds_every_row_s_picture(on_device: LoadedMolmo) -> None:
    prepared = prepare_each_row(on_device, asked(SIZES[:1]) * 3)
    assert len(prepared.missing.uncut) == 3


def test_a_picture_that_is_not_as_large_as_planned_is_refused(on_device: LoadedMolmo) -> None:
    (prompt,) = asked([(300, 60)])
    planned = Picture(height=48, width=48, load=prompt.picture.load)
    with pytest.raises(Mismatch, match="was planned as"):
        on_device.encode([Prompt(text="what", picture=planned)])


def test_a_prompt_without_pixels_needs_no_cutting(on_device: LoadedMolmo) -> None:
    assert on_device.encode_text(asked(SIZES)).uncut == ()


def test_the_device_s_time_belongs_to_preprocess(on_device: LoadedMolmo) -> None:
    marks: list[str] = []
    batch = on_device.transfer(on_device.encode(asked(SIZES)))
    on_device.see(batch, marks.append)
    assert marks == ["preprocess", "vision"]
    marks.clear()
    on_device.see(on_device.cut(batch), marks.append)
    assert marks == ["vision"], "what was cut before is not counted again"
    run = generate(on_device, asked(SIZES), max_new_tokens=3, clock=HostClock())
    stages = run.stages
    assert stages is not None
    total = stages.preprocess_ms + stages.ttft_ms + stages.decode_ms
    assert total == pytest.approx(stages.end_to_end_ms, rel=0.02)


def test_answers_are_those_of_the_host(on_device: LoadedMolmo) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 8)

    def answers() -> list[tuple[int, ...]]:
        return [one.ids for one in generate(on_device, prompts, max_new_tokens=6).generations]

    ours = answers()
    vision_cache = VisionFeatureCache(2**30)
    for _ in range(2):  # the second time from the cache
        prepared = vision_cache.prepare(on_device, prompts)
        run = generate(on_device, prepared, max_new_tokens=6, vision_cache=vision_cache)
        assert [one.ids for one in run.generations] == ours
    on_device.preprocess = "host"
    assert answers() == ours


def test_many_threads_encode_what_one_encodes(on_device: LoadedMolmo) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    prompts = asked(SIZES)
    alone = [on_device.encode([prompt]) for prompt in prompts]
    resize_table.cache_clear()
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            together = list(threads.map(lambda i: on_device.encode([prompts[i % len(prompts)]]), range(20 * THREADS)))
    finally:
        sys.setswitchinterval(before)
    for i, batch in enumerate(together):
        expected = alone[i % len(prompts)]
        assert batch.encodings == expected.encodings
        assert all(torch.equal(batch.inputs[name], expected.inputs[name]) for name in expected.inputs)
        (ours,), (theirs,) = batch.uncut, expected.uncut
        assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.weights, theirs.weights)
        assert (ours.shapes, ours.boxes, ours.first_crops) == (theirs.shapes, theirs.boxes, theirs.first_crops)
