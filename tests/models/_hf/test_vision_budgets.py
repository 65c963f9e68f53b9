"""Vision budgets against image processors of the library, also of families whose models are not built here."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlmprof.models._hf.vision_budgets import BY_IMAGE_PROCESSOR, MergedPatches, budget_class
from vlmprof.surfaces import largest_within

PATCHED = [
    Qwen2VLImageProcessorPil,
    Glm4vImageProcessorPil,
    Ernie4_5_VLMoeImageProcessorPil,
    PaddleOCRVLImageProcessorPil,
]


@pytest.mark.parametrize("kind", PATCHED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [(640, 480), (97, 301), (300, 300), (60, 200)])
@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_pixels_become_the_tokens_that_were_planned(kind: type, size: tuple[int, int], share: float) -> None:
    image_processor = kind()
    budget = MergedPatches(SimpleNamespace(image_processor=image_processor))
    value = max(budget.lowest, int(share * 640 * 480))
    width, height = size
    picture = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
    made = image_processor(images=[picture], return_tensors="pt", **budget.images_kwargs(height, width, value))
    tokens = int(made["image_grid_thw"].prod()) // image_processor.merge_size**2
    assert budget_class(kind.__name__) is MergedPatches
    assert budget.count(height, width, value).vision_tokens == tokens
    assert tokens <= max(1, value // budget.lowest)


def test_backends_share_a_budget() -> None:
    for name, kind in BY_IMAGE_PROCESSOR.items():
        assert budget_class(name) is budget_class(f"{name}Pil") is kind
    assert budget_class("SomeOtherImageProcessor") is None


@pytest.mark.parametrize("count", [5, 1000])
def test_the_largest_budget_within_a_target(count: int) -> None:
    budgets = range(1, count + 1)
    assert largest_within(budgets, lambda budget: 10 * budget, 37) == 3
    assert largest_within(budgets, lambda budget: 10 * budget, 30) == 3
    assert largest_within(budgets, lambda budget: 10 * budget, 9) == 1
    assert largest_within(budgets, lambda budget: 10 * budget, 10**6) == count


def test_of_few_budgets_the_most_tokens_win_also_where_counts_fall() -> None:
    tokens = {1: 10, 2: 40, 3: 35, 4: 90}
    assert largest_within(list(tokens), tokens.__getitem__, 50) == 2
