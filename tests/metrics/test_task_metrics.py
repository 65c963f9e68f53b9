"""The metrics of TextVQA and RealworldQA on cases by hand, and what tells trials of another scoring apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.errors import UserError
from vlmprof.metrics.text_vqa import processed, text_vqa


@pytest.mark.parametrize(
    ("answer", "people", "score"),
    [
        ("No", ["no"] * 10, 1.0),
        ("no.", ["no"] * 10, 1.0),
        ("The Cat", ["cat"] * 10, 1.0),
        ("two", ["2"] * 10, 1.0),
        ("yes", ["no"] * 10, 0.0),
        ("no", ["no"] + ["yes"] * 9, 0.3),
        ("1,000", ["1000"] * 10, 1.0),
        ("kid's", ["kid 's"] * 10, 1.0),
    ],
)
def test_text_vqa_normalises_always(answer, people, score):
    assert text_vqa(answer, tuple(people)) == pytest.approx(score)


def test_text_vqa_needs_answers():
    assert processed("Let's,  GO?") == "let 's go"
    with pytest.raises(UserError, match="no reference answers"):
        text_vqa("x", ())


QUESTION = "Which way?\nA. Left\nB. Right\nPlease answer directly with only the letter of the correct option."


@pytest.mark.parametrize(
    ("question", "gold", "answer", "score"),
    [
        (QUESTION, "B", "B", 1),
        (QUESTION, "B", "(B)", 1),
        (QUESTION, "B", "B. Right", 1),
        (QUESTION, "B", "right", 1),
        (QUESTION, "B", "A", 0),
        (QUESTION, "B", "C", 0),
        ("?", "A", "(A)", 1),
        ("?", "A", "A. Yes", 1),
        ("How many?", "3", "three", 1),
        ("How many?", "3", "3.", 1),
        ("How many?", "3", "4", 0),
        ("How many?", "3", "**3**", 1),
        ("How many?", "3", "**three**.", 1),
        ("How many?", "3", "**4**", 0),
        ("Is it?", "Yes", "**Yes**", 1),
        ("Is it?", "Yes", "*yes*", 1),
        ("Is it?", "Yes", "'Yes'", 1),
        ("Up or down?", "Downhill", "downhill.", 1),
        ("Up or down?", "Downhill", "uphill", 0),
    ],
)
def test_realworld_qa(question, gold, answer, score):
    example = replace(asked([gold]), question=question)
    assert registry.load("metrics", "realworld_qa").judge(answer, example).score == score


def test_a_task_whose_scores_changed_has_another_identity_and_one_whose_did_not_keeps_its_own():
    identities = {name: registry.load("tasks", name).identity for name in registry.builtin("tasks") if name != "local"}
    revisions = {name: registry.load("tasks", name).revision for name in identities}
    same = {name for name in identities if identities[name] == revisions[name]}
    assert same == {"ok_vqa", "shapes_qa", "vqa_v2"}
    assert identities["text_vqa"] == f"{revisions['text_vqa']}+text_vqa.2"
    assert identities["realworld_qa"] == f"{revisions['realworld_qa']}+realworld_qa.4"
