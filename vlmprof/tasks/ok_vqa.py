"""``ok_vqa``: OK-VQA, questions that need knowledge from outside the picture (Marino et al., CVPR 2019)."""

from __future__ import annotations

from vlmprof.metrics.vqa import METRIC
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
        question_type=values["question_type"],
        answers=values["answers"],
    )


DATASET = Dataset(
    name="ok_vqa",
    repository="lmms-lab-encoder/OK-VQA",
    revision="c9f858961f4095a9aeef615057b0822cce967096",
    splits={"val2014": Split(files="data/val2014-*.parquet", count=5_046)},
    columns=Columns(required=("question_id", "question", "question_type", "answers")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("okvqa"),
    max_new_tokens=16,
    licence="not stated",
    pictures="COCO val2014, Flickr terms",
    clusters="image",
)
TASK = DATASET.task()
