"""``chart_qa``: ChartQA, questions about charts (Masry et al., Findings of ACL 2022).

The question type says who wrote a question: people or a machine. The rows have no id, so one is derived from their
content.
"""

from __future__ import annotations

from vlmprof.metrics.relaxed_accuracy import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, content_id, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_WORD, instructed, styled

_WRITERS = ("human", "machine")


def _read(row: IndexedRow) -> Example:
    values = row.values
    return sample(
        row,
        id=content_id(row, values["query"], values["label"], values["human_or_machine"]),
        question=values["query"],
        question_type=_WRITERS[values["human_or_machine"]],
        answers=values["label"],
    )


DATASET = Dataset(
    name="chart_qa",
    repository="HuggingFaceM4/ChartQA",
    revision="b605b6e08b57faf4359aeb2fe6a3ca595f99b6c5",
    splits={
        "test": Split(files="data/test-*.parquet", count=2_500),
        "val": Split(files="data/val-*.parquet", count=1_920),
    },
    columns=Columns(required=("query", "label", "human_or_machine")),
    read=_read,
    metric=METRIC,
    prompt=instructed(ONE_WORD),
    styles=styled("chart_qa"),
    max_new_tokens=32,
    licence="GPL-3.0",
    pictures="Statista, Pew Research, Our World in Data, OECD",
    clusters="chart",
    content_ids=True,
)
TASK = DATASET.task()
