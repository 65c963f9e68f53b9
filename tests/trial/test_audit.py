from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.trial.answer_cache import AnswerCache
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import resolve
from vlmprof.trial.run import run_trial

BATCH = {"size": "auto", "max": 6, "audit_samples": 12}


def run(folder: Path, checkpoint: Path, cached: bool = False, **batch: Any) -> Any:
    # Longer answers than the demo's own: a random model's first token hardly depends on the picture.
    knobs = {"output_tokens": [8]}
    plan = small_job(folder, checkpoint, measure=["accuracy"], knobs=knobs, batch={**BATCH, **batch}).plans[0]
    resolved = resolve(plan)
    model = resolved.family.load(resolved.checkpoint, "cpu")
    loaded = LoadedModel(model, vision_cache=VisionFeatureCache() if cached else None)
    for _ in range(1 + cached):  # the second time all features are known, those of the audit too
        outcome = run_trial(resolved, loaded, BatchSizer(), lambda progress: None)
        loaded.answers, loaded.answers_alone = AnswerCache(), AnswerCache()
    return finished(outcome, model, {}).row


def test_an_honest_model_answers_the_same_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    row = run(tmp_path, tiny_checkpoint)
    assert (row["audit_samples"], row["flips"], row["flip_rate"]) == (12, 0, 0.0)
    assert row["flip_rate_high"] > 0
    assert row["flip_p"] == 1.0
    assert row["flip_rate_allowed"] == 0.01


@pytest.mark.parametrize("cached", [False, True])
def test_features_that_leak_to_a_neighbour_are_caught(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """The predecessor's fault: in a batch, features land in another row. Made large, so that answers hang on them."""
    see = LoadedMolmo.see
    monkeypatch.setattr(LoadedMolmo, "see", lambda self, batch, mark: 100 * see(self, batch, mark).roll(20, dims=0))
    honest = run(tmp_path, tiny_checkpoint, size=1)
    leaking = run(tmp_path, tiny_checkpoint, cached)
    assert honest.get("flips") is None
    assert leaking["flips"] > 0 and leaking["flip_rate"] > leaking["flip_rate_allowed"]


def test_a_job_may_do_without(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert "flips" not in run(tmp_path, tiny_checkpoint, audit_samples=0)
