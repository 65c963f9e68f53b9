"""Preprocessing is bit-identical to the original: tilings, pixels, masks, tokens, and where each token looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.test_molmo_parity import TOLERANCE, scaled_error
from vlmprof.models.molmo.device_cutting import Normalisation, UncutPicture, cut_pictures
from vlmprof.models.molmo.image_processing import MolmoImageProcessor
from vlmprof.models.molmo.processing import image_token_ids

DATA = np.load(Path(__file__).parent / "data" / "preprocess_reference.npz")
CASES = sorted({key.split("/")[0] for key in DATA.files if "_mc" in key and not key.startswith("full")})
IDS = {"start": 50280, "end": 50281, "patch": 50282, "col": 50283}


def picture(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 91 * x + 53 * c + (y * x) % 251) % 256).astype(np.uint8)


def slot_positions(pooling, crops, tokens, patch_id, side=24):
    """Where each pooled slot of each crop lands in the sequence, -100 where nowhere: the original's representation."""
    index = np.full((crops, (side // 2) ** 2), -100)
    crop, patch = np.divmod(pooling[:, 0], side * side)
    row, col = np.divmod(patch, side)
    index[crop, row // 2 * (side // 2) + col // 2] = np.flatnonzero(np.array(tokens) == patch_id)
    return index


@pytest.mark.parametrize("case", CASES)
def test_a_picture(case):
    size, cap = case.split("_mc")
    height, width = map(int, size.split("x"))
    processor = MolmoImageProcessor()
    ours = processor.preprocess(picture(height, width), max_crops=int(cap), return_tensors="np")
    tiling = tuple(ours["image_tilings"][0].tolist())
    assert tiling == tuple(DATA[f"{case}/tiling"].tolist())
    tokens = image_token_ids(tiling, processor.geometry, IDS)
    assert tokens == DATA[f"{case}/tokens"].tolist()
    theirs = DATA[f"{case}/image_input_idx"]
    index = slot_positions(ours["image_token_pooling"], len(theirs), tokens, IDS["patch"])
    assert np.array_equal(index, np.where(theirs < 0, -100, theirs))
    assert np.array_equal(ours["image_masks"], DATA[f"{case}/image_masks"])
    assert np.array_equal(ours["pixel_values"].ravel()[::9973], DATA[f"{case}/pixels_s9973"])
    values = ours["pixel_values"].reshape(len(theirs), -1).astype(np.float64)
    statistics = np.stack([values.mean(-1), values.std(-1)], axis=1)
    assert np.allclose(statistics, DATA[f"{case}/crop_mean_std"], rtol=0, atol=1e-12)
    assert ours["image_num_crops"].tolist() == [len(theirs)]


def test_one_whole_crop():
    ours = MolmoImageProcessor().preprocess(picture(150, 200), return_tensors="np")
    assert np.array_equal(ours["pixel_values"][1], DATA["full_150x200_mc12/images_f32_crop1"])


@pytest.mark.parametrize("case", ["img_a", "img_b"])
def test_the_small_model_s_pictures(reference, case):
    height, width, cap = reference[f"{case}/hw_maxcrops"].tolist()
    processor = MolmoImageProcessor(crop_size=48, patch_size=2)
    ours = processor.preprocess(picture(height, width), max_crops=cap)
    images = reference.images(case)
    for key in ("pixel_values", "image_masks", "image_token_pooling"):
        assert np.array_equal(ours[key].numpy(), images[key].numpy()), key
    tiling = tuple(ours["image_tilings"][0].tolist())
    tokens = image_token_ids(tiling, processor.geometry, {"start": 200, "end": 201, "patch": 202, "col": 203})
    prompt = [11, 22, 33, 44, 55, 66, 77, 88]
    assert [199, *tokens, *prompt] == reference[f"{case}/input_ids"].tolist()


@pytest.mark.parametrize("case", ["img_a", "img_b"])
@torch.inference_mode()
def test_pictures_that_are_cut_on_the_device(moe, reference, case):
    """The same functions as on a GPU, on the CPU: the original's pixels, and its features within their bound."""
    height, width, cap = reference[f"{case}/hw_maxcrops"].tolist()
    processor = MolmoImageProcessor(crop_size=48, patch_size=2)
    layout = processor.layout(picture(height, width), max_crops=cap)
    uncut = [UncutPicture.of(placed) for placed in layout.pictures]
    pixels = cut_pictures(uncut, layout.crops, processor.geometry, Normalisation.of(processor, "cpu"))
    images = reference.images(case)
    assert (pixels - images["pixel_values"]).abs().max() <= 2e-6
    masks = torch.from_numpy(layout.inputs["image_masks"])
    # The original pools every cell of every crop, also those that no token shows.
    every = torch.arange(layout.crops * 576).view(layout.crops, 12, 2, 12, 2).transpose(2, 3).reshape(-1, 4)
    features = moe.model.get_image_features(pixels, masks, every).view(layout.crops, 144, -1)
    assert scaled_error(features[:, ::5], reference[f"{case}/vision_features_s5"]) < TOLERANCE
