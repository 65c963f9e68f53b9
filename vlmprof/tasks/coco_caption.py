"""``coco_caption``: COCO captions, validation 2014: one sentence per photo, 5 or more references (Chen et al., 2015).

Molmo is asked in plain words: the word ``coco_captioning`` stands in its data formatter, but no data set of the
mixture that the released models were trained on has that style. CIDEr-D is computed over the whole subset and fills
``score``. Its word weights depend on the subset, so compare results on the same subset only.
"""

from __future__ import annotations

from vlmprof.metrics.cider import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_SENTENCE, instructed


def _read(row: IndexedRow) -> Example:
    return sample(row, id=row.values["question_id"], question="", answers=row.values["answer"])


DATASET = Dataset(
    name="coco_caption",
    repository="lmms-lab-encoder/COCO-Caption",
    revision="02151fb3da01a06268e022a9d58084fdbd8aa8e3",
    splits={"val": Split(files="data/val-*.parquet", count=40_504)},
    columns=Columns(required=("question_id", "answer")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_SENTENCE),
    styles={"molmo": instructed(ONE_SENTENCE)},
    max_new_tokens=64,
    licence="CC BY 4.0",
    pictures="COCO val2014, Flickr terms",
    clusters="image",
    edition="2",  # the prompt for Molmo
)
TASK = DATASET.task()
