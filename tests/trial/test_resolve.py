"""What only a whole point, or a checkpoint's own files, can be blamed for; found before any weights are read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import job_file, small_job
from vlmprof.errors import KnobValueError, SpecError
from vlmprof.plan.point import Point
from vlmprof.trial.resolve import prepare, resolve


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_crops": [2, 9]}, "needs max_crops of at least 4, but the same point sets max_crops to 2"),
        (
            {"vision_tokens": [32, 80]},
            "needs vision_tokens of at least 52, but the same point sets vision_tokens to 32",
        ),
    ],
)
def test_a_limit_below_an_asked_tiling_is_a_fault_at_check(
    tmp_path: Path, tiny_checkpoint: Path, limit: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        prepare(job_file(tmp_path, tiny_checkpoint, knobs={"tiling": [[1, 1], [2, 2]], **limit, "moe_top_k": [1, 2]}))
    assert said in str(caught.value)
    assert len(caught.value.faults) == 1, "each conflict once, however many points have it"


def test_a_limit_that_leaves_the_tiling_room_is_none(tmp_path: Path, tiny_checkpoint: Path) -> None:
    knobs = {"tiling": [[1, 1], [2, 2]], "max_crops": [4, 9], "vision_tokens": [52, 80]}
    assert len(small_job(tmp_path, tiny_checkpoint, knobs=knobs).plans) == 8


def test_a_point_that_never_saw_a_check_is_refused_all_the_same(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"tiling": [[2, 2]]}).plans
    with pytest.raises(KnobValueError, match="the same point sets max_crops to 1"):
        resolve(replace(plan, point=Point.of({"tiling": [2, 2], "max_crops": 1})))


def test_settings_that_greedy_decoding_leaves_out_are_a_note(tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert small_job(tmp_path, tmp_path / "copy").notes == ()
    settings = {"repetition_penalty": 1.05, "num_beams": 4, "top_p": 0.8}
    (tmp_path / "copy" / "generation_config.json").write_text(json.dumps(settings))
    (note,) = small_job(tmp_path, tmp_path / "copy").notes
    assert note == "copy is decoded greedily, without the checkpoint's own repetition_penalty=1.05, num_beams=4"
