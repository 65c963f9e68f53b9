"""Where data are looked for, what is said when they are not there, and what identifies them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.tasks.public import picture, write, write_parquet
from vlmprof import registry
from vlmprof.errors import UserError
from vlmprof.tasks import vqa_v2
from vlmprof.tasks._data.files import local_files
from vlmprof.tasks.task import DataSource, Task

PATTERN = "data/validation-*.parquet"


def bound(name: str, **said: Any) -> Task:
    task = registry.load("tasks", name).at(DataSource(**said))
    assert isinstance(task, Task)
    return task


def test_a_task_reads_its_pinned_commit_and_asks_nobody_before_it_must() -> None:
    assert bound("vqa_v2").revision == "32665d35052eb4a6d4414851c3c829a72754915a"
    assert bound("vqa_v2", revision="a" * 40).revision == "a" * 40


def test_a_branch_is_refused() -> None:
    with pytest.raises(UserError, match="revision 'main' can move; name a commit of 40"):
        bound("vqa_v2", revision="main")


def test_without_a_network_it_says_what_to_download_and_where_to_put_it() -> None:
    with pytest.raises(UserError) as caught:  # conftest keeps the suite off the network
        bound("doc_vqa").subset("", 3, 0)
    said = str(caught.value)
    assert (
        "hf download lmms-lab-encoder/DocVQA --repo-type dataset --revision 700643acd865ff3ede094825df884d69d4f7cc10"
        in said
    )
    assert "--include 'DocVQA/validation-*.parquet'" in said and "path: FOLDER" in said


def test_a_download_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(write(tmp_path / "hub", "vqa_v2", PATTERN))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    task = bound("vqa_v2", revision="b" * 40)
    assert len(task.subset("", 4, 0)) == 4
    assert asked == {
        "repository": "lmms-lab-encoder/VQAv2",
        "repo_type": "dataset",
        "revision": "b" * 40,
        "allow_patterns": [PATTERN],
    }


def test_a_task_that_is_on_no_hub_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"needs 'path:'.*github\.com/manoja328/TallyQA_dataset"):
        bound("tally_qa")


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_folder_without_the_data_says_what_was_looked_for(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data/validation-\*\.parquet|nothing at") as caught:
        bound("vqa_v2", path=str(tmp_path / place))
    assert "hf download lmms-lab-encoder/VQAv2" in str(caught.value)


def test_files_named_after_the_split_will_do(tmp_path: Path) -> None:
    write(tmp_path / "a", "vqa_v2", PATTERN)
    (tmp_path / "a" / "data").rename(tmp_path / "b")
    flat = bound("vqa_v2", path=str(tmp_path / "b"))
    assert len(list(flat.examples("validation"))) == 12


def test_the_identity_of_local_data_is_their_content(tmp_path: Path) -> None:
    here, copy = write(tmp_path / "a", "vqa_v2", PATTERN), write(tmp_path / "b", "vqa_v2", PATTERN)
    other = write(tmp_path / "c", "vqa_v2", PATTERN, backwards=True)
    revisions = [bound("vqa_v2", path=str(folder)).revision for folder in (here, copy, other)]
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_parquet(tmp_path / "validation.parquet", [{"question_idd": 1, "question": "?", "image": {"bytes": b"x"}}])
    with pytest.raises(UserError, match="no column 'question_id'; did you mean 'question_idd'"):
        bound("vqa_v2", path=str(tmp_path)).subset("", 1, 0)


def test_two_samples_of_one_id_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "vqa_v2", PATTERN)
    (folder / "data/validation-00001-of-00001.parquet").write_bytes(next(folder.glob(PATTERN)).read_bytes())
    with pytest.raises(UserError, match="two samples have the id '1000'"):
        bound("vqa_v2", path=str(folder)).subset("", 1, 0)


def test_a_public_task_takes_no_metric_of_the_job() -> None:
    with pytest.raises(UserError, match="brings its own metric"):
        bound("vqa_v2", metric="anls")
    assert vqa_v2.DATASET.name == "vqa_v2"


# --- local ------------------------------------------------------------------------------------------------------------


def rows(folder: Path, *lines: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "q.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "a.png").write_bytes(picture(1))
    return str(folder)


def test_local_takes_the_users_names_for_things(tmp_path: Path) -> None:
    path = rows(tmp_path, {"pic": "a.png", "ask": "why?", "gold": ["so"], "key": 7, "kind": "x", "doc": "d1"})
    columns = {"image": "pic", "question": "ask", "answers": "gold", "id": "key", "question_type": "kind"}
    said = tuple(sorted({**columns, "cluster": "doc"}.items()))
    task = bound("local", path=path, metric="anls", columns=said)
    (one,) = task.subset("", None, 0)
    assert (one.id, one.question, one.answers, one.question_type, one.cluster) == ("7", "why?", ("so",), "x", "d1")
    assert task.metric.name == "anls"


def test_local_reads_bytes_of_pictures_from_parquet(tmp_path: Path) -> None:
    answers = [{"image": picture(n), "question": "?", "answer": "b", "choices": ["x", "y"]} for n in range(7)]
    write_parquet(tmp_path / "mine.parquet", answers)
    task = bound("local", path=str(tmp_path / "mine.parquet"), metric="multiple_choice")
    assert all(one.picture.load().size == (one.picture.width, one.picture.height) for one in task.subset("", None, 0))


def test_the_id_of_a_row_without_one_is_what_it_was(tmp_path: Path) -> None:
    plain = {"image": "a.png", "question": "why?", "answer": "so"}
    (one,) = bound("local", path=rows(tmp_path / "p", plain), metric="anls").subset("", None, 0)
    assert one.id == hashlib.sha256(b"a.png\0why?\0['so']\0[]").hexdigest()[:16]
    chosen = {"image": "a.png", "question": "why?", "answer": "b", "choices": ["x", "y"]}
    (one,) = bound("local", path=rows(tmp_path / "c", chosen), metric="multiple_choice").subset("", None, 0)
    assert one.answers == ("B",)
    assert one.id == hashlib.sha256(b"a.png\0why?\0['b']\0['x', 'y']").hexdigest()[:16]


def test_rows_that_are_equal_in_all_are_still_two_samples(tmp_path: Path) -> None:
    same = {"image": "a.png", "question": "?", "answer": "b"}
    first, second = bound("local", path=rows(tmp_path, same, same), metric="anls").subset("", None, 0)
    assert sorted([first.id, second.id]) == [min(first.id, second.id), f"{min(first.id, second.id)}-2"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "needs 'path:' and 'metric:'"),
        ({"path": "x"}, "needs 'metric:'"),
        ({"path": "x", "metric": "anls", "revision": "a" * 40}, "no revision"),
        ({"path": "x", "metric": "anls", "columns": (("answr", "a"),)}, "did you mean 'answer'"),
        ({"path": "x", "metric": "anls"}, "nothing at x"),
    ],
)
def test_local_says_what_it_lacks(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        bound("local", **said)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"image": "a.png", "question": "?"}', "has no answer"),
        ('{"image": "a.png"', "is not JSON"),
        ("[1]", "expected one JSON object per sample"),
        ("", "hold no sample"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        bound("local", path=str(tmp_path), metric="anls").subset("", 1, 0)
    assert words in str(caught.value)


@pytest.mark.hub
@pytest.mark.parametrize("name", [name for name in registry.names("tasks") if name not in ("local", "shapes_qa")])
def test_the_real_data_are_what_the_task_expects(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib

    dataset = importlib.import_module(f"vlmprof.tasks.{name}").DATASET
    if not dataset.repository:
        pytest.skip("on no Hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    task = bound(name)
    for split, part in dataset.splits.items():
        examples = list(task.examples(split))
        assert len(examples) == part.count
        assert examples[0].picture.load().size == (examples[0].picture.width, examples[0].picture.height)


@pytest.mark.parametrize(
    ("name", "said"),
    [("/dev/null", "/dev/null is a device"), ("pipe", "pipe is a named pipe"), ("gone.jsonl", "is a link to /nowhere")],
)
def test_what_is_neither_a_file_nor_a_folder_is_named_as_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.jsonl").symlink_to("/nowhere")
    for path in (tmp_path / name, *([tmp_path] if name.endswith("jsonl") else [])):
        with pytest.raises(UserError, match=rf"{said}.*; expected a file"):
            local_files(path, ["*.jsonl"], "", "see docs")


def test_a_folder_with_the_name_of_a_file_of_rows_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(UserError, match=r"b\.jsonl is a folder; expected a file"):
        local_files(tmp_path, ["*.jsonl"], "", "see docs")
