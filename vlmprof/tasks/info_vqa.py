"""``info_vqa``: InfographicVQA, questions about infographics (Mathew et al., WACV 2022)."""

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
        id=values["questionId"],
        question=values["question"],
        question_type=", ".join(sorted(values["answer_type"] or [])),
        answers=values["answers"],
    )


DATASET = Dataset(
    name="info_vqa",
    repository="lmms-lab-encoder/DocVQA",
    revision="700643acd865ff3ede094825df884d69d4f7cc10",
    splits={"validation": Split(files="InfographicVQA/validation-*.parquet", count=2_801)},
    columns=Columns(required=("questionId", "question", "answer_type", "answers")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("info_qa"),
    max_new_tokens=64,
    licence="Apache-2.0, as the repository states",
    pictures="infographics found on the web",
    clusters="infographic",
)
TASK = DATASET.task()
