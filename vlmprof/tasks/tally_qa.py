"""``tally_qa``: TallyQA, counting questions (Acharya, Kafle and Kanan, AAAI 2019), read from its JSON file.

One question is one sample, also when several questions are about one picture. The question type is ``simple`` when
detecting the objects is enough, ``complex`` when their relations or attributes matter.
"""

from __future__ import annotations

from vlmprof.metrics.count import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_WORD, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=f"{values['data_source']}-{values['image_id']}-{values['question_id']}",
        question=values["question"],
        question_type="simple" if values["issimple"] else "complex",
        answers=[values["answer"]],
    )


DATASET = Dataset(
    name="tally_qa",
    repository="",
    revision="",
    splits={"test": Split(files="test.json", count=38_589)},
    columns=Columns(required=("question_id", "image_id", "data_source", "question", "answer", "issimple")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("tally_qa"),
    max_new_tokens=16,
    licence="Apache-2.0",
    pictures="COCO and Visual Genome; terms of each source",
    clusters="image",
    obtain="download test.json of github.com/manoja328/TallyQA_dataset, and put the picture folders that its column"
    " 'image' refers to into the same folder: VG_100K and VG_100K_2 of Visual Genome, val2014 and train2014 of COCO",
)
TASK = DATASET.task()
