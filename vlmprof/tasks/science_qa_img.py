"""``science_qa_img``: the questions of ScienceQA that have a picture: multiple choice (Lu et al., NeurIPS 2022).

A hint precedes its question and never replaces it. The rows have no id, so one is derived from their content.
"""

from __future__ import annotations

from vlmprof.metrics.multiple_choice import LETTERS, METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, content_id, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_LETTER, instructed, styled


def _read(row: IndexedRow) -> Example | None:
    values = row.values
    if not row.identity:
        return None  # the full dataset also has questions without a picture
    return sample(
        row,
        id=content_id(row, values["question"], values["choices"], values["hint"], values["answer"]),
        question=values["question"],
        question_type=values["subject"],
        answers=[LETTERS[int(values["answer"])]],
        choices=values["choices"],
        context=(values["hint"] or "").strip(),
    )


DATASET = Dataset(
    name="science_qa_img",
    repository="lmms-lab-encoder/ScienceQA",
    revision="7d5be0f9a868f835ee26f74cba3baa743c1be07d",
    splits={
        "validation": Split(files="ScienceQA-IMG/validation-*.parquet", count=2_097),
        "test": Split(files="ScienceQA-IMG/test-*.parquet", count=2_017),
    },
    columns=Columns(required=("question", "choices", "answer", "hint", "subject")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_LETTER),
    styles=styled("science_qa"),
    max_new_tokens=16,
    licence="CC BY-NC-SA 4.0",
    pictures="IXL Learning and others, dataset's licence",
    clusters="image",
    content_ids=True,
)
TASK = DATASET.task()
