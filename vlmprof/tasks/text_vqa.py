"""``text_vqa``: TextVQA, questions about text in the picture, with ten answers each (Singh et al., CVPR 2019)."""

from __future__ import annotations

from vlmprof.metrics.text_vqa import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_WORD, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=values["question_id"],
        question=values["question"],
        answers=values["answers"],
        cluster=values["image_id"],
    )


DATASET = Dataset(
    name="text_vqa",
    repository="lmms-lab-encoder/textvqa",
    revision="2304e3b92026c32f500a14833158dc206373ec0f",  # the Hub's own Parquet conversion
    splits={"validation": Split(files="default/validation/*.parquet", count=5_000)},
    columns=Columns(required=("question_id", "image_id", "question", "answers")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("text_vqa"),
    max_new_tokens=64,
    licence="CC BY 4.0",
    pictures="Open Images v3, CC BY 2.0",
    clusters="image",
)
TASK = DATASET.task()
