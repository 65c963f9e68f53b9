"""Reference answers as files hold them: read as what they mean, or refused; a perfect model is never scored 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.samples import asked
from tests.tasks.public import picture
from vlmprof import registry
from vlmprof.errors import UserError
from vlmprof.metrics._gold import listed, options
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example
from vlmprof.tasks.task import DataSource, Task

TWO, DICTIONARY = ["a cat", "a dog"], {"A": "red", "B": "blue"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))


def local(tmp_path: Path, metric: str, **row: Any) -> Task:
    (tmp_path / "x.png").write_bytes(picture(1))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "x.png", "question": "Which?", **row}))
    task = registry.load("tasks", "local").at(DataSource(path=str(tmp_path / "rows.jsonl"), metric=metric))
    assert isinstance(task, Task)
    return task


@pytest.mark.parametrize(
    ("metric", "row", "perfect"),
    [
        ("multiple_choice", {"choices": TWO, "answers": ["b"]}, "B"),
        ("multiple_choice", {"choices": TWO, "answers": [1]}, "B"),
        ("multiple_choice", {"choices": TWO, "answers": ["1"]}, "B"),
        ("multiple_choice", {"choices": TWO, "answers": [1.0]}, "B"),
        ("multiple_choice", {"choices": TWO, "answer": "a dog"}, "B"),
        ("multiple_choice", {"choices": TWO, "answer": "A dog."}, "B"),
        ("multiple_choice", {"choices": TWO, "answers": ["(B)"]}, "B"),
        ("multiple_choice", {"choices": TWO, "answers": "B."}, "B"),
        ("multiple_choice", {"choices": DICTIONARY, "answers": ["B"]}, "B"),
        ("multiple_choice", {"choices": {"b": "blue", "a": "red"}, "answers": ["blue"]}, "B"),
        ("multiple_choice", {"choices": {**DICTIONARY, "C": None, "D": None}, "answers": ["B"]}, "B"),
        ("multiple_choice", {"choices": {"label": ["A", "B"], "text": ["red", "blue"]}, "answers": "B"}, "B"),
        ("multiple_choice", {"choices": [1, 2.0, 3], "answers": ["C"]}, "C"),
        ("multiple_choice", {"choices": ["D", "C", "B", "A"], "answers": [0]}, "D"),  # labels: by text
        ("mmmu", {"choices": ["D", "C", "B", "A"], "answers": [0]}, "A"),  # by position, as its official code does
        ("mmmu", {"choices": TWO, "answers": ["a dog"]}, "B"),
        ("multiple_choice", {"choices": ["A. red", "B. blue"], "answers": ["B"]}, "B"),
        ("multiple_choice", {"choices": ["1. red", "2. blue"], "answers": ["B"]}, "B"),
        (
            "multiple_choice",
            {"choices": ["1. red", "2. blue"], "answers": [2]},
            "B",
        ),  # no index: it can mean that alone
        ("mmmu", {"answers": [3.0]}, "3"),
        ("exact_match", {"choices": TWO, "answers": ["a dog"]}, "B"),  # the prompt asks for the letter
        ("exact_match", {"answers": [3.0]}, "3"),
        ("exact_match", {"answer": 2.5}, "2.5"),
        ("exact_match", {"answers": {"text": ["stop"]}}, "stop"),
        ("exact_match", {"answers": {"text": ["stop"], "answer_start": [4]}}, "stop"),
        ("exact_match", {"answers": [{"answer": "stop", "answer_id": 1}]}, "stop"),
        ("count", {"answers": [3.0]}, "3"),
        ("count", {"answer": "three"}, "3"),
        ("count", {"answer": "3.0"}, "3"),
        ("pope_f1", {"answers": ["Yes."]}, "yes"),
        ("pope_f1", {"answers": [True]}, "yes"),
        ("pope_f1", {"answer": "NO"}, "no"),
        ("pope_f1", {"answer": 0}, "no"),
        ("relaxed_accuracy", {"answer": 12}, "12"),
        ("relaxed_accuracy", {"answer": "nan"}, "nan"),
        ("anls", {"answer": "Stop"}, "stop"),
        ("vqa", {"answers": [{"answer": "yes"}] * 10}, "yes"),
        ("text_vqa", {"answers": ["no"] * 10}, "No."),
        ("realworld_qa", {"question": "Which?\nA. Left\nB. Right", "answer": "B"}, "B. Right"),
    ],
)
def test_is_read_as_what_it_plainly_means(tmp_path, metric, row, perfect):
    task = local(tmp_path, metric, **row)
    (example,) = task.subset("", None, 0)
    verdict = task.metric.judge(perfect, example)
    assert (verdict.score, verdict.parsed) == (1.0, True)


@pytest.mark.parametrize(
    ("metric", "row", "reason"),
    [
        ("multiple_choice", {"choices": TWO, "answers": ["E"]}, "'E' names no option; expected a letter from A to B"),
        ("multiple_choice", {"choices": TWO, "answers": [2]}, "2 names no option"),
        ("multiple_choice", {"choices": TWO, "answers": ["a bird"]}, "names no option.*A: a cat, B: a dog"),
        ("multiple_choice", {"choices": ["1", "2", "3"], "answers": [1]}, "1 may mean the options A and B"),
        ("multiple_choice", {"choices": ["D", "C", "B", "A"], "answers": ["D"]}, "may mean the options A and D"),
        ("multiple_choice", {"choices": ["red", "red"], "answers": ["red"]}, "may mean the options A and B"),
        ("multiple_choice", {"choices": "red", "answers": ["A"]}, "the options are 'red'; expected a list"),
        ("multiple_choice", {"choices": {"x": "red", "y": "blue"}, "answers": ["A"]}, "keys A, B"),
        ("multiple_choice", {"choices": ["red", None], "answers": ["A"]}, "the option null is no text"),
        ("multiple_choice", {"choices": [str(n) for n in range(27)], "answers": ["A"]}, "27 options; at most 26"),
        ("multiple_choice", {"choices": TWO, "answers": [True]}, "true names no option"),
        ("multiple_choice", {"choices": ["1. red", "2. blue"], "answers": [1]}, "1 may mean the options A and B"),
        ("multiple_choice", {"choices": ["1) red", "2) blue", "3) green"], "answers": ["2"]}, "2' may mean .* B and C"),
        (
            "multiple_choice",
            {"choices": ["B. blue", "A. red"], "answers": ["B"]},
            "letters of their own, in another order",
        ),
        ("multiple_choice", {"choices": ["(a) red", "(c) blue"], "answers": [1]}, "letters of their own"),
        ("multiple_choice", {"choices": ["red", float("nan")], "answers": ["A"]}, "the option nan is no text"),
        ("multiple_choice", {"answers": ["A"]}, "no options; name them in 'choices'"),
        ("exact_match", {"question": None, "answers": ["stop"]}, "the question is null; expected a text"),
        ("exact_match", {"question": "  ", "answers": ["stop"]}, "the question is '  '"),
        ("exact_match", {"question": 5, "answers": ["stop"]}, "the question is 5"),
        ("exact_match", {"answers": []}, "has no answer"),
        ("exact_match", {"answers": [None]}, "the answer null is empty"),
        ("exact_match", {"answers": [""]}, "the answer '' is empty"),
        ("exact_match", {"answers": [float("nan")]}, "the answer nan"),
        ("exact_match", {"answers": [["stop"]]}, "a list within a list"),
        ("exact_match", {"answers": "['stop', 'halt']"}, "a list written as text"),
        ("exact_match", {"answers": {"value": 3}}, "is a mapping"),
        ("exact_match", {"answers": [True]}, "a truth value; write the text that is expected, 'yes' or 'true'"),
        ("count", {"answers": ["several"]}, "'several' is no count"),
        ("count", {"answers": [-3]}, "-3 is no count"),
        ("count", {"answers": [2.5]}, "2.5 is no count"),
        ("count", {"choices": TWO, "answers": [1]}, "use the metric 'multiple_choice'"),
        ("pope_f1", {"answers": ["maybe"]}, "do not mean yes or no"),
        ("pope_f1", {"answers": ["yes", "no"]}, "do not mean yes or no"),
        ("vqa", {"answers": ["stop"]}, "1 reference answer: .* at least 4 people"),
        ("text_vqa", {"answers": ["stop"] * 3}, "3 reference answers: "),
        ("cider", {"answers": ["..."]}, "gives 0 to the best possible answer"),
        ("realworld_qa", {"question": "Which?\nA. Left\nB. Right", "answer": "C"}, "gives 0 to the best possible"),
    ],
)
def test_is_refused_with_its_row_and_the_reason(tmp_path, metric, row, reason):
    with pytest.raises(UserError, match=f"task 'local', metric '{metric}', rows.jsonl row 1: .*{reason}"):
        local(tmp_path, metric, **row).subset("", None, 0)


def test_the_row_is_named_by_number_and_id(tmp_path):
    rows = [{"id": str(n), "image": "x.png", "question": "?", "answers": ["B"], "choices": TWO} for n in range(5)]
    rows[3]["answers"] = ["F"]
    (tmp_path / "x.png").write_bytes(picture(1))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = registry.load("tasks", "local").at(DataSource(path=str(tmp_path), metric="multiple_choice"))
    with pytest.raises(UserError, match=r"row 4 \(id '3'\): the answer 'F' names no option"):
        list(task.examples("all"))


FOUR = ["red", "blue", "green", "pink"]


def indexed(folder, answers, choices=FOUR, index_from=None):
    rows = [
        {"id": str(n), "image": "x.png", "question": "?", "answer": answer, "choices": choices}
        for n, answer in enumerate(answers)
    ]
    (folder / "x.png").write_bytes(picture(1))
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = DataSource(path=str(folder), metric="multiple_choice", index_from=index_from)
    return [example.answers[0] for example in registry.load("tasks", "local").at(source).examples("all")]


@pytest.mark.parametrize("answers", [[1, 2, 3] * 10, [1] * 20, ["1", "2"] * 10, [1.0, 2.0, 3.0] * 7 + ["A"]])
def test_indexes_that_seem_counted_from_one_are_refused_until_the_job_says_which_it_is(tmp_path, answers):
    with pytest.raises(
        UserError, match=r"rows.jsonl row 1 \(id '0'\): .* none is 0: .*'index_from: 1' or 'index_from: 0'"
    ):
        indexed(tmp_path, answers)
    assert indexed(tmp_path, answers, index_from=1)[:2] == ["A", "ABCD"[int(answers[1]) - 1]]
    assert indexed(tmp_path, answers, index_from=0)[:2] == ["B", "ABCD"[int(answers[1])]]


@pytest.mark.parametrize(
    "answers",
    [
        [1, 2, 3] * 6,  # too few to tell
        [1, 2, 3] * 10 + [0],
        [1, 3] * 10,  # counted from 1, 2 would be missing
        ["A", "b", "green"] * 10,
    ],
)
def test_other_answers_are_read_without_a_statement(tmp_path, answers):
    assert len(indexed(tmp_path, answers)) == len(answers)


@pytest.mark.parametrize(
    ("answer", "choices", "index_from", "reason"),
    [
        (0, FOUR, 1, "0 names no option; 'index_from' is 1, so indexes of these 4 options go from 1 to 4"),
        (4, FOUR, 0, "indexes of these 4 options go from 0 to 3"),
        (4, FOUR, None, "4 names no option.*if indexes are counted from 1, say 'index_from: 1' in the task"),
        (1, ["2", "1"], 1, "1 may mean the options A and B, as an index and by what stands in them"),
        (1, ["1. red", "2. blue"], 0, "1 may mean the options A and B"),
    ],
)
def test_an_index_that_names_no_option_or_two_is_refused(tmp_path, answer, choices, index_from, reason):
    with pytest.raises(UserError, match=reason):
        indexed(tmp_path, [answer], choices, index_from)


def test_an_index_that_agrees_with_what_stands_in_the_option_is_read(tmp_path):
    assert indexed(tmp_path, [1, "2"], ["1. red", "2. blue"], 1) == ["A", "B"]
    assert indexed(tmp_path, [1, 2, "B"], ["1", "2", "3"], 1) == ["A", "B", "B"]


def test_an_unreachable_answer_is_refused_whatever_the_metric():
    always_zero = Metric.of_answers("strict", lambda text, answers: 0.0)
    with pytest.raises(UserError, match="'q1': the metric 'strict' gives 0 to the best possible answer, 'x'"):
        always_zero.check_gold(asked(["x"]))
    with pytest.raises(UserError, match="no reference answers"):
        always_zero.check_gold(asked([]))
    with pytest.raises(UserError, match="gives 0 to the best possible answer, 'E'"):
        registry.load("metrics", "multiple_choice").check_gold(asked(["E"], TWO))


WORDS = st.sampled_from(
    ["A", "b", "(B)", "B.", "red", "Red.", "a dog", "1", 0, 1, 2, 3.0, True, "yes", "Yes.", "no", "2"]
)
OPTIONS = st.lists(
    st.sampled_from(["red", "blue", "a dog", "D", "C", "B", "A", "yes", "no", "1", "2", 3]), max_size=5, unique=True
)


def perfect(metric: Metric, example: Example) -> str:
    """What a model says that does what the prompt asks: the letter of the right option, its label, or the answer."""
    if example.choices and metric.labels:
        letters = [choice for choice in example.choices if len(choice) == 1 and choice.isalpha()]
        if len(letters) >= max(2, len(example.choices) - 1):
            return example.choices["ABCDE".index(example.answers[0])]
    return example.answers[0]


@pytest.mark.parametrize("name", [name for name in registry.builtin("metrics") if name != "cider"])
@settings(max_examples=300, deadline=None)
@given(value=st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=3)), choices=OPTIONS, people=st.booleans())
def test_a_model_that_answers_the_gold_is_right_on_every_row_that_is_accepted(name, value, choices, people):
    metric = registry.load("metrics", name)
    values = listed([value] * 10 if people and not isinstance(value, list) else value)
    try:
        read = options(choices)
        example = metric.check_gold(asked(metric.gold(values, read), read))
    except UserError as refused:
        assert str(refused)
        return
    verdict = metric.judge(perfect(metric, example), example)
    if len(set(example.answers)) == 1 or name not in ("vqa", "text_vqa"):  # people who disagree leave less than 1
        assert (verdict.score, verdict.parsed) == (1.0, True)


CASES: list[tuple[str, Callable[[Any], Any]]] = [("listed", listed), ("options", options)]


@pytest.mark.parametrize(("name", "reader"), CASES)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_any_cell_is_read_or_refused(name, reader, cell):
    try:
        found = reader(cell)
    except UserError as refused:
        assert len(str(refused)) > 20
        return
    assert found or (name == "options" and not cell)
