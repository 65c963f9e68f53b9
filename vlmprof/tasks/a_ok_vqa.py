"""``a_ok_vqa``: A-OKVQA, multiple choice that needs knowledge and reasoning (Schwenk et al., ECCV 2022)."""

from __future__ import annotations

from vlmprof.metrics.multiple_choice import LETTERS, METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_LETTER, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=values["question_id"],
        question=values["question"],
        answers=[LETTERS[int(values["correct_choice_idx"])]],
        choices=values["choices"],
    )


DATASET = Dataset(
    name="a_ok_vqa",
    repository="HuggingFaceM4/A-OKVQA",
    revision="3b74c7e7bc234effade6d4d88de47bebd61bb675",  # the Hub's own Parquet conversion
    splits={"validation": Split(files="default/validation/*.parquet", count=1_145)},
    columns=Columns(required=("question_id", "question", "choices", "correct_choice_idx")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_LETTER),
    styles=styled("a_okvqa_mc"),
    max_new_tokens=16,
    licence="Apache-2.0",
    pictures="COCO 2017, Flickr terms",
    clusters="image",
)
TASK = DATASET.task()
