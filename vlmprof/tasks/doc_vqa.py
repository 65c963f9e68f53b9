"""``doc_vqa``: DocVQA, questions about pages of documents (Mathew, Karatzas and Jawahar, WACV 2021)."""

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
        question_type=", ".join(sorted(values["question_types"] or [])),
        answers=values["answers"],
        cluster=values["ucsf_document_id"],
    )


DATASET = Dataset(
    name="doc_vqa",
    repository="lmms-lab-encoder/DocVQA",
    revision="700643acd865ff3ede094825df884d69d4f7cc10",
    splits={"validation": Split(files="DocVQA/validation-*.parquet", count=5_349)},
    columns=Columns(required=("questionId", "question", "question_types", "answers", "ucsf_document_id")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("doc_qa"),
    max_new_tokens=64,
    licence="Apache-2.0, as the repository states",
    pictures="UCSF Industry Documents Library",
    clusters="document",
)
TASK = DATASET.task()
