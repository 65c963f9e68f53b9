"""Pictures of extreme shapes: what a plan counts a model can encode, and what a model refuses the plan refuses too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs import small_job
from tests.models._hf.families import Family, ask
from vlmprof.records import Picture
from vlmprof.trial.resolve import judged_picture, resolve

SIZES = [(8000, 8), (8, 8000), (1, 250), (250, 1), (8000, 200), (1, 1), (3000, 2), (601, 3)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_planned_is_encoded_and_what_is_refused_is_refused_by_the_plan(
    family: Family, size: tuple[int, int]
) -> None:
    width, height = size
    prompt = ask("red", width, height)
    try:
        planned = family.anatomy.count_tokens(height, width, family.anatomy.max_crops)
    except Exception as refused:
        with pytest.raises(type(refused)):
            family.model.encode([prompt])
        return
    batch = family.model.encode([prompt])
    assert batch.encodings[0].vision_tokens == planned.vision_tokens


@pytest.mark.parametrize("name", ["qwen3_vl_moe"])
def test_a_refused_size_is_a_fault_of_the_picture(
    tmp_path: Path, family_named: Callable[[str], Family], name: str
) -> None:
    model = {"family": "transformers_vlm", "checkpoint": family_named(name).checkpoint.path}
    plan = small_job(tmp_path, "", models=[model], knobs={"moe_top_k": [1]}).plans[0]
    unused = lambda: None  # noqa: E731
    judged = judged_picture(resolve(plan), Picture(width=8000, height=8, load=unused))  # type: ignore[arg-type]
    assert "8000" in judged.fault and "aspect ratio" in judged.fault
    assert not judged_picture(resolve(plan), Picture(width=80, height=60, load=unused)).fault  # type: ignore[arg-type]
