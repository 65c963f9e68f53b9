"""``realworld_qa``: RealworldQA, photos from vehicles and streets (xAI, 2024).

The text of each question says how to answer: with a letter, a word or a number. The rows have no id, so one is derived
from their content.
"""

from __future__ import annotations

from vlmprof.metrics.realworld_qa import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, content_id, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=content_id(row, values["question"], values["answer"]),
        question=values["question"],
        question_type="letter" if len(values["answer"].strip()) == 1 and values["answer"].isalpha() else "word",
        answers=[values["answer"]],
    )


DATASET = Dataset(
    name="realworld_qa",
    repository="xai-org/RealworldQA",
    revision="90bfb58422c3e20432b9d02a6a323f8b61bbfbc6",
    splits={"test": Split(files="data/test-*.parquet", count=765)},
    columns=Columns(required=("question", "answer")),
    read=_read,
    metric=METRIC,
    prompt=instructed(""),
    styles=styled("vqa2"),
    max_new_tokens=32,
    licence="CC BY-ND 4.0",
    pictures="xAI, dataset's licence",
    clusters="image",
    content_ids=True,
)
TASK = DATASET.task()
