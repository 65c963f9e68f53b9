"""Pictures that cannot be shown to a model: decided before the first trial, and failed samples wherever met."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.jobs import job_file, small_job
from tests.tasks.public import picture
from vlmprof import api
from vlmprof.analyze.caveats import cautions
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.cli import app
from vlmprof.errors import SpecError, UserError
from vlmprof.store.collector import TrialResult
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import predicted_vision_tokens, resolve
from vlmprof.trial.run import run_trial
from vlmprof.trial.samples import samples_of
from vlmprof.trial.worst_case_probe import WorstCaseProbe

SAMPLES = 10


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    png = buffer.getvalue()
    chunk = b"IHDR" + struct.pack(">II", 20_000, 20_000) + png[24:29]
    return png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def narrow() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8), "green").save(buffer, "PNG")
    return buffer.getvalue()


KILLERS: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "garbage": lambda file: file.write_bytes(b"no picture"),
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(picture(3)[:-40]),
    "bomb": lambda file: file.write_bytes(bomb()),
    "narrow": lambda file: file.write_bytes(narrow()),
    "folder": lambda file: (file.unlink(), file.mkdir()),
}
ONLY_IN_PIXELS = {"cut off"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for n in range(SAMPLES):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(picture(n))
    rows = [{"id": f"q{n}", "image": f"pictures/{n}.png", "question": "what?", "answer": "red"} for n in range(SAMPLES)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def sections(folder: Path, **task: Any) -> dict[str, Any]:
    local = {"name": "local", "path": str(folder / "q.jsonl"), "metric": "exact_match", **task}
    return {"tasks": [local], "knobs": {"output_tokens": [2]}}


def run(plan: Any) -> TrialResult:
    resolved = resolve(plan)
    model = resolved.family.load(resolved.checkpoint, "cpu")
    return finished(run_trial(resolved, LoadedModel(model), BatchSizer(), lambda progress: None), model, {})


def test_a_wrong_picture_folder_is_refused_before_the_first_trial(folder: Path, tiny_checkpoint: Path) -> None:
    (folder / "pictures").rename(folder / "picture")
    job = job_file(folder, tiny_checkpoint, **sections(folder))
    with pytest.raises(SpecError) as caught:
        api.check(job)
    said = str(caught.value)
    assert "10 of 10 pictures cannot be shown" in said and "; and 7 more" in said
    assert f"{folder} has no 'pictures'; did you mean 'picture'?" in said
    for command in ("check", "run"):
        result = CliRunner().invoke(app, [command, str(job), *(["--inline"] if command == "run" else [])])
        assert isinstance(result.exception, UserError) and "10 of 10 pictures" in str(result.exception)
    assert not (folder / "results").exists(), "nothing was begun"


@pytest.mark.parametrize("killer", [name for name in KILLERS if name not in ONLY_IN_PIXELS])
def test_one_bad_picture_is_refused_by_check_with_id_picture_and_cause(
    folder: Path, tiny_checkpoint: Path, killer: str
) -> None:
    KILLERS[killer](folder / "pictures" / "4.png")
    with pytest.raises(SpecError) as caught:
        api.check(job_file(folder, tiny_checkpoint, **sections(folder)))
    said = str(caught.value)
    assert "1 of 10 pictures cannot be shown to the model: q4: " in said and "failed_samples_allowed" in said
    assert ("nothing is left of its shorter side" if killer == "narrow" else "4.png") in said


def test_the_nearest_name_of_a_missing_picture_is_given(folder: Path, tiny_checkpoint: Path) -> None:
    (folder / "pictures" / "4.png").rename(folder / "pictures" / "4.PNG")
    with pytest.raises(SpecError, match=r"has no '4\.png'; did you mean '\d\.(PNG|png)'"):
        api.check(job_file(folder, tiny_checkpoint, **sections(folder)))


@pytest.mark.parametrize("killer", KILLERS)
def test_the_bad_picture_fails_its_sample_alone_and_the_others_are_answered(
    folder: Path, tiny_checkpoint: Path, killer: str
) -> None:
    KILLERS[killer](folder / "pictures" / "4.png")
    job = small_job(folder, tiny_checkpoint, **sections(folder), measure=["accuracy"])
    result = run(job.plans[0])
    assert (result.state, result.row["samples_failed"], result.row["samples_answered"]) == ("failed", 1, SAMPLES - 1)
    assert "accuracy" not in result.row and "1 of 10 samples failed, the first is q4" in str(result.row["error"])
    failed = [s for s in result.samples if s["end"] == "failed"]
    assert [s["sample"] for s in failed] == ["q4"] and failed[0]["error"]


def test_a_job_may_allow_a_share_and_the_row_says_what_accuracy_is_over(folder: Path, tiny_checkpoint: Path) -> None:
    for n, killer in enumerate(KILLERS):
        KILLERS[killer](folder / "pictures" / f"{n}.png")
    allowed = sections(folder, failed_samples_allowed=0.7)
    job = api.check(job_file(folder, tiny_checkpoint, **allowed))
    assert any("6 of 10 pictures cannot be shown" in note for note in job.notes)
    result = run(job.plans[0])
    assert result.state == "done" and result.row["error"] is None
    counts = {name: result.row[name] for name in ("samples", "samples_failed", "samples_answered")}
    assert counts == {"samples": 10, "samples_failed": 7, "samples_answered": 3}
    scores = [float(s["score"]) for s in result.samples if s["end"] != "failed"]  # type: ignore[arg-type]
    assert result.row["accuracy"] == sum(scores) / 3 and result.row["failed_set"]
    part = pd.DataFrame([{**result.row, "flip_rate": 0.0, "flip_rate_allowed": 0.01}])
    assert any(caution.startswith("in 1 of 1 trials some samples failed") for caution in cautions(part))
    too_few = small_job(folder, tiny_checkpoint, **sections(folder, failed_samples_allowed=0.6)).plans[0]
    assert run(too_few).state == "failed"


def test_a_request_is_never_smaller_than_the_row_says(folder: Path, tiny_checkpoint: Path) -> None:
    order = [
        e.id for e in resolve(small_job(folder, tiny_checkpoint, **sections(folder)).plans[0]).task.subset("", 4, 0)
    ]
    for name, killer in zip(order, ["missing", "narrow", "cut off"], strict=False):
        KILLERS[killer](folder / "pictures" / f"{name[1:]}.png")
    timing = {
        "batch_size": 4, "requests": 2, "output_tokens": 2, "repeats": 6, "max_repeats": 6, "warmup": 1,
        "warmup_seconds": 0, "exclusive": False,
    }  # fmt: skip
    job = small_job(folder, tiny_checkpoint, **sections(folder), measure=["latency"], timing=timing)
    result = run(job.plans[0])
    assert result.row["timing_batch_size"] == 4
    assert {timed["batch_size"] for timed in result.timings if not timed["canary"]} == {4}
    assert result.row["samples"] == 0 and result.row["samples_untimed"] == 3 and result.row["untimed_set"]
    part = pd.DataFrame([{**result.row, "flip_rate": 0.0, "flip_rate_allowed": 0.01}])
    (caution,) = [sentence for sentence in cautions(part) if "given to the model" in sentence]
    assert caution.startswith("in 1 of 1 trials samples could not be given to the model: others were timed")


def test_a_plan_leaves_bad_pictures_out_and_none_at_all_is_said(folder: Path, tiny_checkpoint: Path) -> None:
    plan = small_job(folder, tiny_checkpoint, **sections(folder)).plans[0]
    whole = predicted_vision_tokens(resolve(plan))
    KILLERS["bomb"](folder / "pictures" / "4.png")
    plan = small_job(folder, tiny_checkpoint, **sections(folder)).plans[0]
    assert predicted_vision_tokens(resolve(plan)) > 0 and whole > 0
    shutil.rmtree(folder / "pictures")
    plan = small_job(folder, tiny_checkpoint, **sections(folder)).plans[0]
    with pytest.raises(UserError, match=r"no picture of the subset can be read; .*there is no such file"):
        predicted_vision_tokens(resolve(plan))
    with pytest.raises(UserError, match=r"none of the 10 samples can be given to this model; the first.*no such file"):
        run(plan)


def test_the_share_is_no_part_of_the_id_of_jobs_without_it(folder: Path, tiny_checkpoint: Path) -> None:
    plain, zero, some = (
        small_job(folder, tiny_checkpoint, **sections(folder, **more)).plans[0].id
        for more in ({}, {"failed_samples_allowed": 0}, {"failed_samples_allowed": 0.1})
    )
    assert plain == zero != some


def test_several_frames_and_what_a_task_does_to_its_data_are_noted(folder: Path, tiny_checkpoint: Path) -> None:
    red, blue = (Image.new("RGB", (40, 24), colour) for colour in ("red", "blue"))
    red.save(folder / "pictures" / "4.png", "GIF", save_all=True, append_images=[blue])
    job = api.check(job_file(folder, tiny_checkpoint, **sections(folder)))
    assert any("1 of 10 pictures have several frames" in note and "q4, with 2" in note for note in job.notes)
    job = api.check(job_file(folder, tiny_checkpoint, tasks=[{"name": "mmmu"}]))
    assert any("'<image 1>'" in note and "(picture 1)" in note for note in job.notes)


def test_a_probe_of_a_worst_case_that_cannot_be_decoded_runs_on_a_blank_picture_of_its_size(
    folder: Path, tiny_checkpoint: Path
) -> None:
    KILLERS["cut off"](folder / "pictures" / "4.png")
    resolved = resolve(small_job(folder, tiny_checkpoint, **sections(folder)).plans[0])
    (broken,) = (sample for sample in samples_of(resolved) if sample.example.id == "q4")
    model = resolved.family.load(resolved.checkpoint, "cpu")
    probe = WorstCaseProbe(resolved, [broken], LoadedModel(model), 2, BatchSizer())
    picture_of_probe = probe._probed_prompt().picture
    size = (broken.prompt.picture.width, broken.prompt.picture.height)
    assert picture_of_probe.load().size == size != (1, 1)
