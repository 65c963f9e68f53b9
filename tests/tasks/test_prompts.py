"""What models are asked, where a data set's own words decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.tasks.task import Task

LETTER = (
    "In which direction?\n\nA. Left\nB. Right\n"
    "Please answer directly with only the letter of the correct option and nothing else."
)
WORD = "How many lanes?\nPlease answer directly with a single word or number."


def molmo(task: str, question: str, kind: str = "", choices: tuple[str, ...] = ()) -> str:
    found: Task = registry.load("tasks", task)
    example = replace(asked(["a"]), question=question, question_type=kind, choices=choices)
    return found.ask(example, "molmo").text


def test_realworld_qa_is_asked_as_molmo_s_own_evaluation_asks() -> None:
    assert molmo("realworld_qa", LETTER, "letter") == f"a_okvqa_mc: {LETTER}"
    assert molmo("realworld_qa", WORD, "word") == "vqa2: How many lanes?"
    # An answer of one letter to a question that asks for a word is no option.
    assert molmo(
        "realworld_qa", "What does it say?\nPlease answer directly with a single word or number.", "letter"
    ) == ("vqa2: What does it say?")
    task: Task = registry.load("tasks", "realworld_qa")
    assert task.ask(replace(asked(["a"]), question=LETTER), "transformers_vlm").text == LETTER


def test_captions_are_asked_in_plain_words_of_molmo_too() -> None:
    assert molmo("coco_caption", "") == "Describe this image in one short sentence."


@pytest.mark.parametrize(
    "task", [name for name in registry.names("tasks") if name not in ("local", "shapes_qa", "brightness")]
)
def test_no_style_is_outside_of_molmo_s_training_mixture(task: str) -> None:
    mixture = {
        "vqa2", "text_vqa", "okvqa", "chart_qa", "doc_qa", "info_qa", "ai2_diagram", "ai2_diagram_no_letter",
        "a_okvqa_mc", "science_qa", "st_qa", "tally_qa",
    }  # fmt: skip
    style, colon, _ = molmo(task, "what?", choices=("x", "y")).partition(": ")
    assert not colon or style in mixture


@pytest.mark.parametrize("task", ["realworld_qa", "coco_caption"])
def test_a_prompt_that_has_changed_makes_other_trials_of_local_data(task: str, tmp_path: object) -> None:
    dataset = __import__(f"vlmprof.tasks.{task}", fromlist=["DATASET"]).DATASET
    assert dataset.edition == "2"
    from vlmprof.tasks.task import DataSource

    assert dataset.task().at(DataSource()).revision == f"{dataset.revision}-2"
