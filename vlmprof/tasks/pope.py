"""``pope``: POPE, yes-or-no questions about present and absent objects (Li et al., EMNLP 2023).

The question type says how the absent objects were chosen: random, popular, or adversarial (objects that often occur
together with those in the picture). F1 is computed over the whole subset and fills ``score``.
"""

from __future__ import annotations

from vlmprof.metrics.pope_f1 import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import YES_OR_NO, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=f"{values['category']}/{values['question_id']}",
        question=values["question"],
        question_type=values["category"],
        answers=[values["answer"]],
        cluster=values["image_source"],
    )


DATASET = Dataset(
    name="pope",
    repository="lmms-lab-encoder/POPE",
    revision="4db1276663dfa5eb8ad16a52d24c31a09e470896",
    splits={"test": Split(files="data/test-*.parquet", count=9_000)},
    columns=Columns(required=("question_id", "question", "answer", "category", "image_source")),
    read=_read,
    metric=METRIC,
    prompt=instructed(YES_OR_NO),
    styles=styled("vqa2"),
    max_new_tokens=16,
    licence="MIT",
    pictures="COCO val2014, Flickr terms",
    clusters="image",
)
TASK = DATASET.task()
