"""``gqa``: GQA, compositional questions about Visual Genome photos, balanced test-dev (Hudson and Manning, CVPR 2019).

The pictures are stored in separate files and joined by their id. The question type is the structural type: choose,
compare, logical, query or verify.
"""

from __future__ import annotations

from vlmprof.metrics.exact_match import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Join, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_WORD, instructed, styled


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=values["id"],
        question=values["question"],
        question_type=(values.get("types") or {}).get("structural") or "",
        answers=[values["answer"]],
    )


DATASET = Dataset(
    name="gqa",
    repository="lmms-lab-encoder/GQA",
    revision="97d3b99600e12b5039d04b4d2f28201b089eb640",
    splits={
        "testdev": Split(
            files="testdev_balanced_instructions/*.parquet", pictures="testdev_balanced_images/*.parquet", count=12_578
        )
    },
    columns=Columns(required=("id", "imageId", "question", "answer"), optional=("types",), image=""),
    read=_read,
    join=Join(row="imageId", picture="id"),
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("vqa2"),
    max_new_tokens=16,
    licence="MIT, as the repository states",
    pictures="Visual Genome, CC BY 4.0",
    clusters="image",
)
TASK = DATASET.task()
