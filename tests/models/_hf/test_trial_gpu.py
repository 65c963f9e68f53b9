"""Whole sweeps of every tiny family on a GPU: threads that encode ahead, recorded steps, counted operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmprof
from tests.jobs import QUICK
from tests.models._hf.families import BY_NAME
from tests.models._hf.recipes import make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


def caps(checkpoint: Path) -> dict[str, list[Any]]:
    """Two values of the knob that limits what a picture becomes, where the model has one."""
    from vlmprof import registry
    from vlmprof.models.family import Checkpoint
    from vlmprof.surfaces import PixelBudget, VisionBudget

    anatomy = registry.load("models", "transformers_vlm").describe(Checkpoint(path=str(checkpoint), revision=""))
    if VisionBudget in anatomy.provides:
        return {"max_crops": [anatomy.min_crops, anatomy.max_crops]}
    if PixelBudget in anatomy.provides:
        return {"max_pixels": [anatomy.min_crops, anatomy.max_crops]}
    return {"output_tokens": [1, 2]}


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "molmo2"])  # Molmo2 needs torchvision's C++ ops
def test_a_sweep_runs_and_every_trial_gets_the_setting_it_was_given(name: str, tmp_path: Path) -> None:
    folder = make(BY_NAME[name], tmp_path / "checkpoint")
    job = {
        "name": name,
        "models": [{"family": "transformers_vlm", "checkpoint": str(folder), "dtype": "float32"}],
        "tasks": [{"name": "shapes_qa", "samples": 48, "seed": 3}],
        "knobs": caps(folder),
        "timing": {**QUICK, "energy_seconds": 0},
        "batch": {"size": 8, "audit_samples": 8, "flip_rate_allowed": 1.0},
        "storage": str(tmp_path / "results"),
    }
    listed = vlmprof.list_trials(job).set_index("trial")
    trials = vlmprof.run(job, inline=True).trials
    report: Callable[..., None] = print
    columns = ["point", "state", "vision_tokens", "engine", "flops_first_token", "latency_ms_p50"]
    columns += [column for column in ("engine_fallback", "flops_missing") if column in trials]
    report(name, trials[columns].to_string(index=False), sep="\n")
    assert list(trials["error"].dropna()) == []
    assert set(trials["state"]) == {"done"}
    planned = trials["trial"].map(listed["vision_tokens_predicted"])
    assert trials["vision_tokens"].tolist() == pytest.approx(planned.tolist())
    assert (trials["device"] != "CPU").all() and trials["latency_ms_p50"].gt(0).all()
