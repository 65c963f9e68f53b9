"""What travels with a job, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.jobs import job_file
from vlmprof.errors import SpecError, UserError
from vlmprof.job.spec import read
from vlmprof.submit.bundle import pack
from vlmprof.submit.secret_scan import why_secret, why_secret_variable
from vlmprof.trial.resolve import prepare

LOCAL = {"name": "local", "metric": "exact_match"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a user works in: three questions and their pictures."""
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    desk = tmp_path / "desk"
    (desk / "mine" / "images").mkdir(parents=True)
    for n in range(3):
        Image.new("RGB", (8 + n, 8)).save(desk / "mine" / "images" / f"{n}.png")
    rows = [{"image": f"images/{n}.png", "question": f"{n}?", "answer": "a"} for n in range(3)]
    (desk / "mine" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(desk)
    return desk


def job(desk: Path, checkpoint: Path, **sections: object) -> Path:
    return job_file(desk, checkpoint, **{"tasks": [{**LOCAL, "path": "mine/questions.jsonl"}], **sections})


def test_only_the_job_travels_unless_asked(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint)
    path.write_text(f"# note to self: hf_{'x' * 30}\n{path.read_text()}")
    (tmp_path / "private.txt").write_text("beside the job")
    bundle = pack(path, with_data=False)
    (tmp_path / "sent").mkdir()
    bundle.write(tmp_path / "sent")
    assert [one.name for one in (tmp_path / "sent").iterdir()] == ["job.yaml"]
    assert "note to self" not in bundle.job
    assert read(tmp_path / "sent" / "job.yaml") == read(path)


def test_the_id_is_the_name_and_the_content(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint)
    first = pack(path, with_data=False)
    assert first.id.startswith("small-") and len(first.digest) == 10
    raw = yaml.safe_load(path.read_text())
    path.write_text("# said otherwise\n" + yaml.safe_dump(dict(sorted(raw.items(), reverse=True)), sort_keys=False))
    assert pack(path, with_data=False).id == first.id
    ids = {first.id}
    for section in (
        {"knobs": {"max_crops": [1]}},
        {"tasks": [{"name": "shapes_qa", "samples": 13, "seed": 3}]},
        {"tasks": [{"name": "shapes_qa", "samples": 12, "seed": 4}]},
        {"measure": ["accuracy"]},
        {"storage": "results/elsewhere"},
        {"timing": {"repeats": 7}},
    ):
        ids.add(pack(job_file(tmp_path, tiny_checkpoint, **section), with_data=False).id)
    assert len(ids) == 7
    short, long = ({"tasks": ["shapes_qa"]}, {"tasks": [{"name": "shapes_qa", "seed": 0}], "engine": "auto"})
    same = {pack(job_file(tmp_path, tiny_checkpoint, **section), with_data=False).id for section in (short, long)}
    assert len(same) == 1, "the same job in other words"


def test_data_travel_when_asked_and_trials_keep_their_ids(desk: Path, tiny_checkpoint: Path) -> None:
    path = job(desk, tiny_checkpoint)
    bundle = pack(path, with_data=True)
    assert sorted(bundle.files) == [
        "mine/images/0.png",
        "mine/images/1.png",
        "mine/images/2.png",
        "mine/questions.jsonl",
    ]
    here = {plan.id for plan in prepare(path).plans}
    there = desk.parent / "cluster"
    there.mkdir()
    bundle.write(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        assert {plan.id for plan in prepare(there / "job.yaml").plans} == here


def test_only_pictures_of_the_subset_travel(desk: Path, tiny_checkpoint: Path) -> None:
    for said in ("mine/questions.jsonl", "mine"):
        bundle = pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": said, "samples": 1}]), with_data=True)
        assert len([name for name in bundle.files if name.endswith(".png")]) == 1
        assert "mine/questions.jsonl" in bundle.files


def test_other_data_are_another_submission(desk: Path, tiny_checkpoint: Path) -> None:
    path = job(desk, tiny_checkpoint)
    first = pack(path, with_data=True)
    with (desk / "mine" / "questions.jsonl").open("a") as file:
        file.write('{"image": "images/0.png", "question": "more?", "answer": "b"}\n')
    assert pack(path, with_data=True).id != first.id


def test_an_absolute_path_becomes_one_of_the_parcel(desk: Path, tiny_checkpoint: Path) -> None:
    absolute = str(desk / "mine" / "questions.jsonl")
    bundle = pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": absolute}]), with_data=True)
    (there,) = [name for name in bundle.files if name.endswith("questions.jsonl")]
    assert there.startswith("data/") and yaml.safe_load(bundle.job)["tasks"][0]["path"] == there
    assert str(desk) not in json.dumps(yaml.safe_load(bundle.job)["tasks"])


def test_a_path_of_this_machine_is_refused_unless_it_is_sent(desk: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(SpecError, match=r"tasks\[0\].path: 'mine/questions.jsonl' .* --with-data sends"):
        pack(job(desk, tiny_checkpoint), with_data=False)
    assert not pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": "/mnt/q.jsonl"}]), with_data=False).files
    (desk / "weights").mkdir()
    with pytest.raises(SpecError, match=r"models\[0\].checkpoint: 'weights' .* weights are not sent"):
        pack(job(desk, "weights"), with_data=True)


def test_too_much_data_says_how_much_and_what_then(desk: Path, tiny_checkpoint: Path) -> None:
    (desk / "mine" / "more.parquet").write_bytes(b"0" * 3_000_000)
    path = job(
        desk, tiny_checkpoint, tasks=[{"name": "local", "metric": "exact_match", "path": "mine/questions.jsonl"}]
    )
    with pytest.raises(UserError, match=r"in 4 files, and at most 0\.0 MB are sent.*--data-limit-mb"):
        pack(path, with_data=True, limit_bytes=100)


@pytest.mark.parametrize(
    "name", [".env.json", "credentials.json", ".git/x.json", "my_token.jsonl", "service-account.json"]
)
def test_files_with_private_names_are_refused(desk: Path, tiny_checkpoint: Path, name: str) -> None:
    (desk / "mine" / name).parent.mkdir(exist_ok=True)
    (desk / "mine" / name).write_text("{}")
    with pytest.raises(UserError, match=r"looks like something private.* is not sent"):
        pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": "mine"}]), with_data=True)


def test_code_never_travels(desk: Path, tiny_checkpoint: Path) -> None:
    for name in ("json.py", "x.pth", "y.pkl", "z.so"):
        (desk / "mine" / name).write_text("import os")
    (desk / "mine" / "rows.py").write_text((desk / "mine" / "questions.jsonl").read_text())
    with pytest.raises(UserError, match=r"rows.py does not have the name of a table"):
        pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": "mine/rows.py"}]), with_data=True)
    bundle = pack(job(desk, tiny_checkpoint, tasks=[{**LOCAL, "path": "mine", "samples": 3}]), with_data=True)
    assert {Path(name).suffix for name in bundle.files} == {".png", ".jsonl"}


@pytest.mark.parametrize("image", ["../../secret.png", "images/link.png", "images/script.py"])
def test_a_row_cannot_take_along_a_file_from_elsewhere(desk: Path, tiny_checkpoint: Path, image: str) -> None:
    Image.new("RGB", (8, 8)).save(desk.parent / "secret.png")
    (desk / "mine" / "images" / "link.png").symlink_to(desk.parent / "secret.png")
    (desk / "mine" / "images" / "script.py").write_text("1")
    (desk / "mine" / "questions.jsonl").write_text(json.dumps({"image": image, "question": "?", "answer": "a"}))
    with pytest.raises(UserError, match=r"lies outside|does not have the name of an image"):
        pack(job(desk, tiny_checkpoint), with_data=True)


def test_a_secret_in_the_job_is_refused_by_field(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "a1" * 16
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "correct horse battery 9")
    path = job_file(tmp_path, f"https://me:{token}@hub/x", storage="/mnt/correct horse battery 9")
    with pytest.raises(SpecError) as raised:
        pack(path, with_data=False)
    said = str(raised.value)
    assert "models[0].checkpoint: looks like a token of the Hugging Face Hub" in said
    assert "storage: looks like the value of SOME_SERVICE_TOKEN" in said
    assert token not in said and "battery" not in said.replace(str(path), "")


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "DB_PASSWORD", "RAY_AUTH_TOKEN", "GOOGLE_CREDENTIALS"],
)
def test_variables_with_secret_names(name: str) -> None:
    assert why_secret_variable(name, "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "/mnt/hf"), ("OMP_NUM_THREADS", "4"), ("X", "a" * 40), ("MODE", "token")],
)
def test_plain_variables_travel(name: str, value: str) -> None:
    assert not why_secret_variable(name, value)


@pytest.mark.parametrize(
    "value",
    ["ghp_" + "a" * 36, "AKIA" + "A" * 16, "sk-" + "a" * 40, "xoxb-1234567890", "-----BEGIN RSA PRIVATE KEY-----"],
)
def test_values_with_the_shape_of_a_secret(value: str) -> None:
    assert why_secret(f"x={value}")
