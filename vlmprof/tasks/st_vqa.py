"""``st_vqa``: ST-VQA, questions about scene text (Biten et al., ICCV 2019), read from its JSON file.

Only the training questions have public answers, and models such as Molmo were trained on most of them: accuracy
on them measures fit to the training data, not generalisation.
"""

from __future__ import annotations

from vlmprof.metrics.anls import METRIC
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
        question_type=values["dataset"],
        answers=values["answers"],
    )


DATASET = Dataset(
    name="st_vqa",
    repository="",
    revision="",
    splits={"train": Split(files="train_task_3.json", count=26_308)},
    columns=Columns(required=("question_id", "question", "dataset", "answers"), image="file_path"),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("st_qa"),
    max_new_tokens=32,
    licence="CC BY 4.0",
    pictures="COCO-Text, Visual Genome, ICDAR, IIIT Text, VizWiz; terms of each source",
    clusters="image",
    obtain="register at rrc.cvc.uab.es (challenge ST-VQA, task 3), and unpack train_task_3.json and the folders of"
    " pictures that its column 'file_path' refers to into one folder",
)
TASK = DATASET.task()
