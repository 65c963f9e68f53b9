"""``realworld_qa``: RealworldQA, photos from vehicles and streets (xAI, 2024).

The text of each question says how to answer: with a letter, a word or a number. Molmo gets the questions as its own
evaluation puts them (allenai/molmo ``olmo/data/academic_datasets.py``, ``RealWorldQa``): those with options whole, in
the style of A-OKVQA's multiple choice; those that ask for a word by their first line, in the style of VQA v2. The rows
have no id, so one is derived from their content.
"""

from __future__ import annotations

from dataclasses import replace

from vlmprof.metrics.realworld_qa import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, content_id, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import instructed, styled

_ASKS_FOR_WORD = "Please answer directly with a single word or number."
_ASKS_FOR_LETTER = "Please answer directly with only the letter of the correct option and nothing else."


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=content_id(row, values["question"], values["answer"]),
        question=values["question"],
        question_type="letter" if len(values["answer"].strip()) == 1 and values["answer"].isalpha() else "word",
        answers=[values["answer"]],
    )


def _molmo(example: Example) -> str:
    if _ASKS_FOR_WORD in example.question:
        return styled("vqa2")["molmo"](replace(example, question=example.question.split("\n")[0]))
    letter = _ASKS_FOR_LETTER in example.question or example.question_type == "letter"
    return styled("a_okvqa_mc" if letter else "vqa2")["molmo"](example)


DATASET = Dataset(
    name="realworld_qa",
    repository="xai-org/RealworldQA",
    revision="17e7f75e092e47169732462ea3cdfebe911105dd",
    splits={"test": Split(files="data/test-*.parquet", count=765)},
    columns=Columns(required=("question", "answer")),
    read=_read,
    metric=METRIC,
    prompt=instructed(""),
    styles={"molmo": _molmo},
    max_new_tokens=32,
    licence="CC BY-ND 4.0",
    pictures="xAI, dataset's licence",
    clusters="image",
    content_ids=True,
    edition="2",  # the styles for Molmo
)
TASK = DATASET.task()
