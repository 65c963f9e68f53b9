"""The key of the batch-size cache: what changes it, and what must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.jobs import small_job
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan
from vlmprof.trial import memory_key
from vlmprof.trial.memory_key import memory_key_of
from vlmprof.trial.resolve import resolve


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> TrialPlan:
    return small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [4], "moe_top_k": [2]}).plans[0]


@pytest.fixture
def model(plan: TrialPlan) -> AbstractModel:
    resolved = resolve(plan)
    loaded: AbstractModel = resolved.family.load(resolved.checkpoint, "cpu")
    return loaded


def halves(plan: TrialPlan, model: AbstractModel) -> tuple[str, str]:
    setup, _, versions = memory_key_of(plan, model)[0].partition("-")
    return setup, versions


def test_knobs_and_timing_do_not_change_it(plan: TrialPlan, model: AbstractModel) -> None:
    other = replace(plan, point=(), timing=replace(plan.timing, repeats=99), audit_samples=1)
    assert halves(other, model) == halves(plan, model)


def test_the_model_changes_the_first_half_and_a_format_number_the_second(
    plan: TrialPlan, model: AbstractModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, versions = halves(plan, model)
    retrained = halves(replace(plan, model_fingerprint="another"), model)
    assert retrained[0] != setup and retrained[1] == versions
    monkeypatch.setattr(memory_key, "FORWARD_FORMAT", memory_key.FORWARD_FORMAT + 1)
    assert halves(plan, model)[0] == setup and halves(plan, model)[1] != versions


def test_no_source_file_is_read_for_it(plan: TrialPlan, model: AbstractModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited comment must not throw measured batch sizes away."""
    read: list[Path] = []
    honest = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: [read.append(self), honest(self)][1])
    memory_key_of(plan, model)
    assert [path for path in read if path.suffix == ".py"] == []


def test_pictures_on_the_device_change_the_first_half(plan: TrialPlan, model: AbstractModel) -> None:
    setup, versions = halves(plan, model)
    model.preprocess = "device"
    assert halves(plan, model)[0] != setup and halves(plan, model)[1] == versions
