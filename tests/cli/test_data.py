"""``vlmprof data`` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.tasks.public import picture, write
from vlmprof.cli import app
from vlmprof.errors import UserError

DEMO = "vlmprof/demo/weights"


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    rows = [{"image": f"{n}.png", "question": f"{n}?", "answer": "red " * (n + 1)} for n in range(4)]
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / "q.jsonl")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_answers_in_words_and_in_tokens(questions: str, tmp_path: Path) -> None:
    local = ["answers", "local", "--path", questions, "--metric", "exact_match"]
    said = run(*local, "--to", str(tmp_path / "a.parquet"))
    assert "4 answers" in said and "longest 4" in said and "--tokenizer" in said
    assert pq.read_table(tmp_path / "a.parquet").column("cut_share").to_pylist()[:3] == [0.75, 0.5, 0.0]
    root = Path(__file__).parents[2]
    assert "Recommended cap: 8 (the task's own: 64)" in run(*local, "--tokenizer", str(root / DEMO))


def test_tilings_name_the_distinct_caps(questions: str, tmp_path: Path) -> None:
    local = ["local", "--path", questions, "--metric", "exact_match", "--model", "demo"]
    said = run("tilings", *local, "--to", str(tmp_path / "t.csv"))
    assert "4 pictures" in said and "Distinct work, for a sweep to list (crops): 1" in said
    table = pc.read_csv(tmp_path / "t.csv")
    assert table.column("budget").to_pylist() == list(range(1, 10))
    assert table.column("same_as").to_pylist()[0] is None


def test_tilings_leave_out_what_no_model_is_shown(questions: str, tmp_path: Path) -> None:
    (tmp_path / "0.png").unlink()
    Image.new("RGB", (8000, 8)).save(tmp_path / "1.png")
    said = run("tilings", "local", "--path", questions, "--metric", "exact_match", "--model", "demo")
    assert "2 pictures; " in said
    assert "1 picture left out; 'vlmprof data check local' says why" in said
    assert "1 picture left out, of sizes that the model refuses" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["answers", "doc_vqa"], "hf download lmms-lab-encoder/DocVQA"),
        (["answers", "shapes_qa", "--tokenizer", "nowhere"], "there is no nowhere"),
        (["answers", "shapes_qa", "--to", "a.xlsx"], "expected a name that ends in .parquet or .csv"),
        (["answers", "shapes_qa", "--split", "trian"], "did you mean 'train'"),
    ],
)
def test_what_cannot_be_done_is_told(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        run(*words)
    assert said in str(caught.value)


# --- check ------------------------------------------------------------------------------------------------------------


def check(*words: str) -> tuple[str, str]:
    """What is printed, and the error that ends the command with exit code 2; empty for none."""
    result = CliRunner().invoke(app, ["data", "check", *words])
    if result.exception is not None:
        assert isinstance(result.exception, UserError), result.exception
    return result.output, str(result.exception or "")


def test_sound_data_are_said_to_be_sound(questions: str) -> None:
    said, error = check("local", "--path", questions, "--metric", "exact_match")
    assert not error and "4 samples, 4 pictures" in said and "no fault" in said
    assert "most frequent sizes: " in said and "40x32 (1)" in said


def test_every_fault_is_named_with_its_row_and_the_exit_code_is_2(questions: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    rows += [
        {"image": "none.png", "question": "?", "answer": "a"},
        {"image": "cut.png", "question": "?", "answer": "a"},
        {"image": "1.png", "question": "?"},
        {"image": "film.gif", "question": "?", "answer": "a"},
    ]
    Path(questions).write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "cut.png").write_bytes(picture(2)[:-30])
    red, blue = (Image.new("RGB", (9, 9), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "film.gif", save_all=True, append_images=[blue])
    said, error = check("local", "--path", questions, "--metric", "exact_match", "--to", str(tmp_path / "faults.csv"))
    assert "8 samples, 7 pictures" in said
    assert "1 of 7 pictures have several frames or pages, of which only the first is used" in said
    assert error.startswith("3 faults:")
    assert "q.jsonl row 5 " in error and "none.png: there is no such file" in error
    assert "q.jsonl row 6 " in error and "cut.png: cannot be decoded" in error
    assert "q.jsonl row 7: the row has no answer" in error
    assert pc.read_csv(tmp_path / "faults.csv").num_rows == 3
    said, error = check("local", "--path", questions, "--metric", "exact_match", "--headers", "--most", "1")
    assert error.startswith("2 faults:") and "and 1 more" in error, "what is cut off shows only in the pixels"


def test_the_command_ends_with_2_where_something_is_wrong(questions: str, tmp_path: Path) -> None:
    (tmp_path / "2.png").unlink()
    command = [
        sys.executable,
        "-m",
        "vlmprof.cli",
        "data",
        "check",
        "local",
        "--path",
        questions,
        "--metric",
        "exact_match",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "2.png: there is no such file" in done.stderr and "Traceback" not in done.stderr


def test_a_published_count_and_ids_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "v", "vqa_v2", "data/validation-*.parquet")
    said, error = check("vqa_v2", "--path", str(folder))
    assert "12 samples of 214,354 published, 6 pictures" in said
    assert error == "1 fault:\n  12 samples, where 214,354 are published: files are missing, or rows"
    copy = folder / "data/validation-00001-of-00001.parquet"
    copy.write_bytes(next(folder.glob("data/*.parquet")).read_bytes())
    _, error = check("vqa_v2", "--path", str(folder))
    assert "the id '1000' is that of validation-00000-of-00001.parquet row 1 too; ids must be unique" in error


def test_a_column_that_is_missing_is_named(questions: str) -> None:
    _, error = check("local", "--path", questions, "--metric", "exact_match", "--column", "question=ask")
    assert "has no column 'ask'" in error
    assert (
        "expected FIELD=COLUMN" in check("local", "--path", questions, "--metric", "exact_match", "--column", "ask")[1]
    )
    assert "did you mean 'anls'" in check("local", "--path", questions, "--metric", "anl")[1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": "E", "choices": ["red", "blue"]}, "q.jsonl row 5"),
        ({"answer": "A", "question": None}, "expected a text"),
        ({"answers": []}, "the row has no answer"),
    ],
)
def test_gold_that_no_answer_can_reach_is_named_with_its_row(
    questions: str, row: dict[str, object], words: str
) -> None:
    sound = [{"image": f"{n}.png", "question": "?", "answer": "B", "choices": ["red", "blue"]} for n in range(4)]
    Path(questions).write_text("\n".join(map(json.dumps, [*sound, {"image": "1.png", "question": "?", **row}])))
    said, error = check("local", "--path", questions, "--metric", "multiple_choice")
    assert "5 samples" in said and error.startswith("1 fault:\n  q.jsonl row 5: ") and words in error


def test_tilings_without_a_model_say_which_can_be_named(questions: str) -> None:
    result = CliRunner().invoke(app, ["data", "tilings", "local", "--path", questions, "--metric", "exact_match"])
    assert result.exit_code and isinstance(result.exception, UserError)
    assert "depends on the model: say which, as in 'vlmprof data tilings local --model demo'" in str(result.exception)
    assert "a checkpoint's folder or a Hub id" in str(result.exception)
