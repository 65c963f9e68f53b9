"""``local``: your own questions, from a Parquet, JSONL or JSON file with paths or bytes of pictures.

A row has ``image``, ``question`` and ``answers`` (a list) or ``answer``; it may have ``id``, ``question_type``,
``cluster`` and ``choices`` (``answers`` then holds the letter of the right one, its text, or its index, counted from
0 unless the job says ``index_from: 1``).
``columns:`` maps these fields to columns of other names. The job names the metric, and the metric reads the answers:
one that has no meaning, or two, is refused with its row. Without ids, the id of a row is a digest of its content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import UserError, as_written, suggestion
from vlmprof.metrics._gold import is_index, listed, options
from vlmprof.metrics._gold_indexes import by_index, why_counted_from_one
from vlmprof.metrics.exact_match import METRIC
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import checked, content_id, numbered, read_row, sample
from vlmprof.tasks._data.files import local_files
from vlmprof.tasks._data.index import Columns, IndexedRow, read_index, revision_of
from vlmprof.tasks._prompts import ONE_LETTER, instructed, styled
from vlmprof.tasks.task import DataSource, Task, TaskRow

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
    return _task(source, revision_of(_files(source), _columns(source)))


def _task(source: DataSource, revision: str) -> Task:
    metric = _metric(source)
    return Task(
        name="local",
        revision=revision,
        splits=(SPLIT,),
        examples=lambda split: _examples(source, revision),
        rows=(lambda split: _rows(source)) if source.path else None,
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
    rows = list(_rows(source))
    fault = next((row for row in rows if row.fault), None)
    if fault is not None:
        raise UserError(f"task 'local', metric '{source.metric}', {fault.where}: {fault.fault}")
    examples = [row.example for row in rows if row.example is not None]
    return checked("local", examples)


def _rows(source: DataSource) -> list[TaskRow]:
    """All rows; those without an id of their own have one by their content."""
    names = _ColumnMap(dict(source.columns))
    indexed = read_index(_files(source), _columns(source))
    metric = _metric(source)
    rows = [_row(row, names, metric, source.index_from) for row in indexed]
    if source.index_from is None:
        rows = _with_indexes_judged(rows, indexed, names)
    if any(names.value(row, "id") is not None for row in indexed):
        return rows
    examples = iter(numbered([row.example for row in rows if row.example is not None]))
    return [row if row.example is None else replace(row, example=next(examples)) for row in rows]


def _with_indexes_judged(rows: list[TaskRow], indexed: Sequence[IndexedRow], names: _ColumnMap) -> list[TaskRow]:
    """The rows; if their answers seem to be indexes counted from 1, the first of these is faulty and says so."""
    sound = [(at, row.example) for at, row in enumerate(rows) if row.example is not None]
    asked = [(at, listed(_given_answers(indexed[at], names)), one.choices) for at, one in sound if one.choices]
    why = why_counted_from_one((values, choices) for _, values, choices in asked)
    if not why:
        return rows
    first = next(at for at, values, _ in asked if any(map(is_index, values)))
    return [replace(row, example=None, fault=why) if at == first else row for at, row in enumerate(rows)]


def _given_answers(row: IndexedRow, names: _ColumnMap) -> Any:
    answers = names.value(row, "answers")
    return answers if answers is not None else names.value(row, "answer")


def _row(row: IndexedRow, names: _ColumnMap, metric: Metric, index_from: int | None) -> TaskRow:
    row_id = names.value(row, "id")
    read = read_row(row, lambda row: _example(row, names, metric, index_from), metric)
    return read if row_id is None else replace(read, where=f"{row.where} (id '{row_id}')")


def _columns(source: DataSource) -> Columns:
    names = _ColumnMap(dict(source.columns))
    return Columns(
        required=(names.column("question"),),
        optional=tuple(names.column(field) for field in FIELDS if field not in ("image", "question")),
        image=names.column("image"),
    )


def _metric(source: DataSource) -> Metric:
    found: Metric = registry.load("metrics", source.metric) if source.metric else METRIC
    return found


def _example(row: IndexedRow, names: _ColumnMap, metric: Metric, index_from: int | None) -> Example:
    question = row.values[names.column("question")]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"the question is {as_written(question)}; expected a text")
    answers = _given_answers(row, names)
    if answers is None or answers == []:
        raise UserError(f"the row has no answer: {as_written(row.values)}; {_HOW}")
    # An id is a digest of what the file has, not of what is read from it: a metric that reads more must not change ids.
    written = (question, answers if isinstance(answers, list) else [answers], names.value(row, "choices") or [])
    choices = options(names.value(row, "choices"))
    values = listed(answers)
    if choices and index_from is not None:
        values = by_index(values, choices, index_from)
    answers = metric.gold(values, choices)
    row_id, cluster = names.value(row, "id"), names.value(row, "cluster")
    if isinstance(row_id, list | dict) or (isinstance(row_id, str) and not row_id.strip()):
        raise UserError(f"the id is {as_written(row_id)}; expected a text or a number, or null")
    return sample(
        row,
        id=content_id(row, *written) if row_id is None else row_id,
        question=question,
        question_type=names.value(row, "question_type") or "",
        answers=answers,
        choices=choices,
        **({} if cluster is None else {"cluster": cluster}),
    )


TASK = _task(DataSource(), "")
