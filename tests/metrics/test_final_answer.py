"""The text in which a model reasons is not its answer, whatever the metric."""

from __future__ import annotations

import pytest

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.metrics._final_answer import final_answer


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("B", "B"),
        (" B\n", " B\n"),
        ("a < b [x]", "a < b [x]"),
        ("<think>the answer is A</think> B", "B"),
        ("<think>\nA?\n</think>\n\nB", "B"),
        ("<Thinking>A</Thinking>B", "B"),
        ("the answer is A</think> B", "B"),  # the chat template opened the tag
        ("<think>A <think>C</think> A</think> B", "B"),
        ("B <think>or A?</think>", "B"),
        ("<think>A</think> <think>C</think> B", "B"),
        ("<think>the answer is A", ""),  # cut before the end
        ("<think>A</think>", ""),
        ("<think></think>B", "B"),
        ("\u25c1think\u25b7A\u25c1/think\u25b7B", "B"),
        ("[THINK]A[/THINK]B", "B"),
        ("<think>A</think><answer>B</answer>", "B"),
        ("<answer> B </answer>", "B"),
        ("<think>A</think><|begin_of_box|>B<|end_of_box|>", "B"),
        ("<seed:think>A</seed:think>B", "B"),
        ("<|think|>A<|/think|>B", "B"),
        ("<reflection>A</reflection>B", "B"),
        ("<rationale>A</rationale>B", "B"),
        ("<think>A</think><final_answer>B</final_answer>", "B"),
        ("<SUMMARY>A?</SUMMARY><CAPTION>A</CAPTION><REASONING>A</REASONING><CONCLUSION>B</CONCLUSION>", "B"),
        ("<REASONING>A</REASONING><CONCLUSION>B", "B"),
        ("<caption>a dog</caption>", "<caption>a dog</caption>"),
    ],
)
def test_what_is_left_without_reasoning(output, answer):
    assert final_answer(output) == answer
    assert final_answer(final_answer(output)) == final_answer(output)


RIGHT = {
    "anls": (["red"], (), "blue", "red"),
    "cider": (["a red bus"], (), "a dog", "a red bus"),
    "count": (["3"], (), "4", "3"),
    "exact_match": (["red"], (), "blue", "red"),
    "mmmu": (["B"], ("red", "blue"), "(A)", "B"),
    "multiple_choice": (["B"], ("red", "blue"), "the answer is A", "B"),
    "pope_f1": (["yes"], (), "no", "yes"),
    "realworld_qa": (["3"], (), "4", "three"),
    "relaxed_accuracy": (["10"], (), "50", "10.2"),
    "text_vqa": (["no"] * 10, (), "yes", "No"),
    "vqa": (["no"] * 10, (), "yes", "no"),
}


def test_every_metric_is_tested():
    assert set(RIGHT) == set(registry.builtin("metrics"))


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_no_metric_sees_the_reasoning(name):
    answers, choices, thought, answer = RIGHT[name]
    metric, example = registry.load("metrics", name), asked(answers, choices)
    plain, thinking = metric.judge(answer, example), metric.judge(f"<think>{thought}</think> {answer}", example)
    assert thinking == plain
    never_answered = metric.judge(f"<think>{answer}. {answer}", example)
    assert never_answered.parsed is False and not never_answered.score
    if metric.corpus is not None:
        others = [example, asked(answers, choices, name="q2")]
        parts = metric.corpus.parts([f"<think>{thought}</think>{answer}", answer], others)
        assert metric.corpus.value(parts) == metric.corpus.value(metric.corpus.parts([answer, answer], others))
