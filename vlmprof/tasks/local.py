"""``local``: your own questions, from a Parquet, JSONL or JSON file with paths or bytes of pictures.

A row has ``image``, ``question`` and ``answers`` (a list) or ``answer``; it may have ``id``, ``question_type``,
``cluster`` and ``choices`` (``answers`` then holds the letter of the right one, its text, or its index from 0).
``columns:`` maps these fields to columns of other names. The job names the metric, and the metric reads the answers:
one that has no meaning, or two, is refused with its row. Without ids, the id of a row is a digest of its content.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import UserError, suggestion
from vlmprof.metrics._gold import listed, options
from vlmprof.metrics.exact_match import METRIC
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import checked, content_id, numbered, sample
from vlmprof.tasks._data.files import fingerprint, local_files
from vlmprof.tasks._data.index import Columns, IndexedRow, read_index
from vlmprof.tasks._prompts import ONE_LETTER, instructed, styled
from vlmprof.tasks.task import DataSource, Task

FIELDS = ("id", "image", "question", "answers", "answer", "question_type", "cluster", "choices")
SPLIT = "all"
MAX_NEW_TOKENS = 64
_HOW = "each row has image, question and answers; see docs/tasks.md"


@final
@dataclass(frozen=True, slots=True)
class _ColumnMap:
    """Field -> column: as the job maps it, else the column of the same name."""

    columns: dict[str, str]

    def column(self, field: str) -> str:
        return self.columns.get(field, field)

    def value(self, row: IndexedRow, field: str) -> Any:
        return row.values.get(self.column(field))


def _from_source(source: DataSource) -> Task:
    if not source.path or not source.metric:
        missing = " and ".join(f"'{name}:'" for name in ("path", "metric") if not getattr(source, name))
        raise UserError(f"task 'local' needs {missing}: the file or folder of your data, and the metric for answers")
    if source.revision:
        raise UserError("task 'local' takes no revision: its files are identified by their content; remove 'revision:'")
    unknown = next((field for field, _ in source.columns if field not in FIELDS), None)
    if unknown is not None:
        raise UserError(f"columns: a sample has no field '{unknown}'{suggestion(unknown, FIELDS)}")
    files = _files(source)
    return _task(source, fingerprint(files))


def _task(source: DataSource, revision: str) -> Task:
    metric = _metric(source)
    return Task(
        name="local",
        revision=revision,
        splits=(SPLIT,),
        examples=lambda split: _examples(source, revision),
        prompt=partial(_prompt, lettered=not metric.labels),
        styles={"molmo": styled("vqa2", lettered=not metric.labels)["molmo"]},
        metric=metric,
        max_new_tokens=MAX_NEW_TOKENS,
        at=None if source.path else _from_source,
    )


def _prompt(example: Example, *, lettered: bool) -> str:
    return instructed(ONE_LETTER if example.choices else "", lettered=lettered)(example)


def _files(source: DataSource) -> tuple[Path, ...]:
    return local_files(Path(source.path).expanduser(), ["*.parquet", "*.jsonl", "*.json"], "", _HOW)


@lru_cache(maxsize=4)
def _examples(source: DataSource, revision: str) -> tuple[Example, ...]:
    # The revision is part of the cache key because the files may change between two calls.
    if not source.path:
        raise UserError(f"task 'local' needs 'path:' and 'metric:'; {_HOW}")
    names = _ColumnMap(dict(source.columns))
    columns = Columns(
        required=(names.column("question"),),
        optional=tuple(names.column(field) for field in FIELDS if field not in ("image", "question")),
        image=names.column("image"),
    )
    rows = read_index(_files(source), columns)
    metric = _metric(source)
    examples = [_numbered_example(number, row, names, metric) for number, row in enumerate(rows, start=1)]
    has_ids = any(names.value(row, "id") is not None for row in rows)
    return checked("local", examples if has_ids else numbered(examples))


def _metric(source: DataSource) -> Metric:
    found: Metric = registry.load("metrics", source.metric) if source.metric else METRIC
    return found


def _numbered_example(number: int, row: IndexedRow, names: _ColumnMap, metric: Metric) -> Example:
    try:
        return metric.check_gold(_example(row, names, metric))
    except UserError as error:
        row_id = names.value(row, "id")
        which = f"row {number}" if row_id is None else f"row {number} (id '{row_id}')"
        raise UserError(f"task 'local', metric '{metric.name}', {which}: {error}") from None


def _example(row: IndexedRow, names: _ColumnMap, metric: Metric) -> Example:
    question = row.values[names.column("question")]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"the question is {question!r}; expected a text")
    answers = names.value(row, "answers")
    answers = answers if answers is not None else names.value(row, "answer")
    if answers is None or answers == []:
        raise UserError(f"it has no answer: {dict(row.values)!r}; {_HOW}")
    choices = options(names.value(row, "choices"))
    answers = metric.gold(listed(answers), choices)
    row_id, cluster = names.value(row, "id"), names.value(row, "cluster")
    return sample(
        row,
        id=content_id(row, question, answers, choices) if row_id is None else row_id,
        question=question,
        question_type=names.value(row, "question_type") or "",
        answers=answers,
        choices=choices,
        **({} if cluster is None else {"cluster": cluster}),
    )


TASK = _task(DataSource(), "")
