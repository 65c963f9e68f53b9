"""``vlmprof data`` as it is typed."""

import json
from pathlib import Path

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.tasks.public import picture
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
    local = ["answers", "local", "--path", questions, "--metric", "vqa"]
    said = run(*local, "--to", str(tmp_path / "a.parquet"))
    assert "4 answers" in said and "longest 4" in said and "--tokenizer" in said
    assert pq.read_table(tmp_path / "a.parquet").column("cut_share").to_pylist()[:3] == [0.75, 0.5, 0.0]
    root = Path(__file__).parents[2]
    assert "Recommended cap: 8 (the task's own: 64)" in run(*local, "--tokenizer", str(root / DEMO))


def test_tilings_name_the_distinct_caps(questions: str, tmp_path: Path) -> None:
    local = ["local", "--path", questions, "--metric", "vqa", "--model", "demo"]
    said = run("tilings", *local, "--to", str(tmp_path / "t.csv"))
    assert "4 pictures" in said and "Distinct work, for a sweep to list (crops): 1" in said
    table = pc.read_csv(tmp_path / "t.csv")
    assert table.column("budget").to_pylist() == list(range(1, 10))
    assert table.column("same_as").to_pylist()[0] is None


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
