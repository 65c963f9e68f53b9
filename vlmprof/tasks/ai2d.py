"""``ai2d``: AI2D, multiple choice about diagrams from school books (Kembhavi et al., ECCV 2016).

The rows have no id, so one is derived from their content. The right option is given by its position, counted from 0.
"""

from __future__ import annotations

from vlmprof.metrics.multiple_choice import LETTERS, METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, content_id, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_LETTER, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=content_id(row, values["question"], values["options"], values["answer"]),
        question=values["question"],
        answers=[LETTERS[int(values["answer"])]],
        choices=values["options"],
    )


DATASET = Dataset(
    name="ai2d",
    repository="lmms-lab-encoder/ai2d",
    revision="7f7fbf8edcc628605d9e48da01c50b3cc5b3d02d",
    splits={"test": Split(files="data/test-*.parquet", count=3_088)},
    columns=Columns(required=("question", "options", "answer")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_LETTER),
    styles=styled("ai2_diagram"),
    max_new_tokens=16,
    licence="CC BY-SA 4.0",
    pictures="grade school textbooks, dataset's licence",
    clusters="diagram",
    content_ids=True,
)
TASK = DATASET.task()
