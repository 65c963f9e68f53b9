"""``vqa_v2``: VQA v2, open questions about COCO photos, with ten answers each (Goyal et al., CVPR 2017).

The question type is the dataset's ``answer_type``: yes/no, number or other.
"""

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
        question_type=values["answer_type"],
        answers=[answer["answer"] for answer in values["answers"]],
        cluster=values["image_id"],
    )


DATASET = Dataset(
    name="vqa_v2",
    repository="lmms-lab-encoder/VQAv2",
    revision="32665d35052eb4a6d4414851c3c829a72754915a",
    splits={"validation": Split(files="data/validation-*.parquet", count=214_354)},
    columns=Columns(required=("question_id", "image_id", "question", "answer_type", "answers")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("vqa2"),
    max_new_tokens=16,
    licence="CC BY 4.0",
    pictures="COCO val2014, Flickr terms",
    clusters="image",
)
TASK = DATASET.task()
