"""A trial on pictures in files: decoded ahead and once, and a broken one is a counted failure."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.jobs import small_job
from tests.tasks.public import picture
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.models.family import AbstractModel
from vlmprof.store.collector import TrialResult
from vlmprof.tasks._data.pictures import StoredPicture
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import resolve
from vlmprof.trial.run import knobs_applied, run_trial
from vlmprof.trial.samples import samples_of
from vlmprof.trial.score_pass import ScorePass


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    for n in range(8):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    rows = [{"id": f"q{n}", "image": f"{n}.png", "question": "what colour?", "answer": "red"} for n in range(8)]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {"name": "local", "path": str(tmp_path / "q.jsonl"), "metric": "exact_match"}
    sections: dict[str, Any] = {"tasks": [task], "measure": ["accuracy"], "knobs": {"output_tokens": [2]}}
    return lambda **more: small_job(tmp_path, tiny_checkpoint, **(sections | more)).plans[0]


def run(plan: Any, model: AbstractModel | None = None) -> tuple[TrialResult, AbstractModel]:
    resolved = resolve(plan)
    model = model or resolved.family.load(resolved.checkpoint, "cpu")
    return finished(run_trial(resolved, LoadedModel(model), BatchSizer(), lambda progress: None), model, {}), model


def test_readers_change_no_answer_and_no_id_and_decode_once(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, ahead = job(resources={"readers": 0}), job(resources={"readers": 2})
    assert alone.id == ahead.id
    first, model = run(ahead)

    def refuse(self: StoredPicture) -> bytes:
        raise AssertionError("decoded twice")

    monkeypatch.setattr(StoredPicture, "encoded", refuse)
    second, _ = run(replace(alone, readers=0), model)
    assert first.state == second.state == "done"
    assert [s["prediction"] for s in first.samples] == [s["prediction"] for s in second.samples]


def test_rows_say_what_was_asked_about_which_picture(job: Any, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(b"no picture")
    result, _ = run(job())  # the trial fails, and its rows are kept
    rows = {row["sample"]: row for row in result.samples}
    assert len(rows) == 8 and {row["question"] for row in rows.values()} == {"what colour?"}
    assert all(row["references"] == ["red"] for row in rows.values())
    assert all(row["picture"] == str(tmp_path / f"{name[1:]}.png") for name, row in rows.items())
    sizes = {name: (row["picture_width"], row["picture_height"]) for name, row in rows.items()}
    assert sizes.pop("q3") == (None, None)
    for name, size in sizes.items():
        with Image.open(tmp_path / f"{name[1:]}.png") as image:
            assert size == image.size


def test_pictures_whose_features_are_known_are_not_opened_again(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, opened = [job(knobs={"output_tokens": [2], "moe_top_k": [k]}) for k in (1, 2)], []
    resolved = resolve(plans[0])
    model = resolved.family.load(resolved.checkpoint, "cpu")
    cached, plain = LoadedModel(model, vision_cache=VisionFeatureCache()), LoadedModel(model)
    call = StoredPicture.__call__

    def counting(self: StoredPicture) -> Any:
        opened.append(self.key)
        return call(self)

    monkeypatch.setattr(StoredPicture, "__call__", counting)
    answers = []
    for loaded in (cached, plain):
        for plan in plans:
            opened.clear()
            samples = samples_of(resolve(plan))
            with knobs_applied(resolve(plan), model):
                scoring = ScorePass(
                    resolved=resolve(plan), loaded=loaded, samples=samples, max_new_tokens=2, sizer=BatchSizer()
                )
                answers.append([one.generation.text for one in scoring.scored() if one.generation])
            assert len(set(opened)) == (8 if loaded is plain or plan is plans[0] else 0)
    assert answers[:2] == answers[2:] and all(len(one) == 8 for one in answers)


def test_a_broken_picture_is_a_counted_failure_with_the_id_named(job: Any, tmp_path: Path) -> None:
    (tmp_path / "5.png").write_bytes(b"no picture")
    (tmp_path / "6.png").unlink()
    result, _ = run(job(resources={"readers": 1}))
    assert result.state == "failed" and result.row["samples_failed"] == 2
    assert "accuracy" not in result.row
    failed = {str(s["sample"]): str(s["error"]) for s in result.samples if s["end"] == "failed"}
    assert set(failed) == {"q5", "q6"} and "6.png" in failed["q6"]
    assert "2 of 8 samples failed, the first is q" in str(result.row["error"])


def test_data_that_changed_since_the_plan_are_refused(job: Any, tmp_path: Path) -> None:
    plan = job()
    (tmp_path / "q.jsonl").write_text((tmp_path / "q.jsonl").read_text().replace("red", "blue"))
    with pytest.raises(Exception, match=r"the data here are files-\w+\S*, the sweep was planned for files-"):
        resolve(plan)
