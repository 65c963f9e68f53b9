"""Pictures cut on a GPU: the host's pixels, and a host that never waits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.models.molmo.test_device_cutting import SIZES, WITHIN, asked, noise
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo.device_cutting import Normalisation, UncutPicture, cut_pictures
from vlmprof.models.molmo.image_processing import MolmoImageProcessor
from vlmprof.models.molmo.runtime import LoadedMolmo

pytestmark = [
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedMolmo]:
    loaded = registry.load("models", "demo").load(Checkpoint(path="", revision="", dtype="float32"), "cuda")
    loaded.preprocess = "device"
    yield loaded


@pytest.mark.parametrize("size", [(1, 1), (768, 1024), (2200, 1700), (3000, 4000), (336, 900), (3000, 20), (20, 3000)])
@pytest.mark.parametrize("max_crops", [1, 12])
def test_the_pixels_are_those_of_the_host(size: tuple[int, int], max_crops: int) -> None:
    processor, picture = MolmoImageProcessor(), noise(*size)
    layout = processor.layout(picture, max_crops=max_crops)
    uncut = [UncutPicture.of(placed).on("cuda") for placed in layout.pictures]
    values = cut_pictures(uncut, layout.crops, processor.geometry, Normalisation.of(processor, "cuda")).cpu().numpy()
    host = processor.preprocess(picture, max_crops=max_crops, return_tensors="np")["pixel_values"]
    assert float(np.abs(values - host).max()) <= WITHIN


def test_the_host_does_not_wait(model: LoadedMolmo) -> None:
    batch = model.encode(asked(SIZES))
    model.cut(model.transfer(batch))  # memory and kernels are there
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        uncut = tuple(picture.on("cuda") for picture in batch.uncut)
        cut_pictures(
            uncut, len(batch.inputs["image_masks"]), model._processor.image_processor.geometry, model._normalisation
        )
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_answers_are_those_of_the_host(model: LoadedMolmo) -> None:
    prompts = asked(SIZES)
    ours = [one.ids for one in generate(model, prompts, max_new_tokens=6).generations]
    model.preprocess = "host"
    assert [one.ids for one in generate(model, prompts, max_new_tokens=6).generations] == ours
    model.preprocess = "device"
