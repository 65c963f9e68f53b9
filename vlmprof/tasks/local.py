"""``local``: your own questions, from a Parquet, JSONL or JSON file with paths or bytes of pictures.

A row has ``image``, ``question`` and ``answers`` (a list) or ``answer``; it may have ``id``, ``question_type``,
``cluster`` and ``choices`` (``answers`` then holds the letter of the right one). Other names go into ``columns:``. The
job says which metric. Without an id a row is known by what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import UserError, suggestion
from vlmprof.metrics.exact_match import METRIC
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
class _Names:
    """Field -> column, as the job says, else of the same name."""

    said: dict[str, str]

    def column(self, name: str) -> str:
        return self.said.get(name, name)

    def of(self, row: IndexedRow, name: str) -> Any:
        return row.values.get(self.column(name))


def _at(place: DataSource) -> Task:
    if not place.path or not place.metric:
        missing = " and ".join(f"'{name}:'" for name in ("path", "metric") if not getattr(place, name))
        raise UserError(f"task 'local' needs {missing}: a file or folder of yours, and how answers are scored")
    if place.revision:
        raise UserError("task 'local' takes no revision: it is known by the content of its files")
    unknown = next((name for name, _ in place.columns if name not in FIELDS), None)
    if unknown is not None:
        raise UserError(f"columns: a sample has no field '{unknown}'{suggestion(unknown, FIELDS)}")
    files = _files(place)
    return _task(place, fingerprint(files))


def _task(place: DataSource, revision: str) -> Task:
    return Task(
        name="local",
        revision=revision,
        splits=(SPLIT,),
        examples=lambda split: _examples(place, revision),
        prompt=_prompt,
        styles={"molmo": styled("vqa2")["molmo"]},
        metric=registry.load("metrics", place.metric) if place.metric else METRIC,
        max_new_tokens=MAX_NEW_TOKENS,
        at=None if place.path else _at,
    )


def _prompt(example: Example) -> str:
    return instructed(ONE_LETTER if example.choices else "")(example)


def _files(place: DataSource) -> tuple[Path, ...]:
    return local_files(Path(place.path).expanduser(), ["*.parquet", "*.jsonl", "*.json"], "", _HOW)


@lru_cache(maxsize=4)
def _examples(place: DataSource, revision: str) -> tuple[Example, ...]:  # by revision too: files may change in between
    if not place.path:
        raise UserError(f"task 'local' needs 'path:' and 'metric:'; {_HOW}")
    names = _Names(dict(place.columns))
    columns = Columns(
        required=(names.column("question"),),
        optional=tuple(names.column(name) for name in FIELDS if name not in ("image", "question")),
        image=names.column("image"),
    )
    rows = read_index(_files(place), columns)
    examples = [_example(row, names) for row in rows]
    named = any(names.of(row, "id") is not None for row in rows)
    return checked("local", examples if named else numbered(examples))


def _example(row: IndexedRow, names: _Names) -> Example:
    given = names.of(row, "answers")
    answers = given if given is not None else names.of(row, "answer")
    if answers is None or answers == []:
        raise UserError(f"a row of task 'local' has no answer: {dict(row.values)!r}; {_HOW}")
    answers = answers if isinstance(answers, list) else [answers]
    question, choices = str(row.values[names.column("question")]), names.of(row, "choices") or []
    own = names.of(row, "id")
    return sample(
        row,
        id=content_id(row, question, answers, choices) if own is None else own,
        question=question,
        question_type=names.of(row, "question_type") or "",
        answers=answers,
        choices=choices,
        **({"cluster": names.of(row, "cluster")} if names.of(row, "cluster") is not None else {}),
    )


TASK = _task(DataSource(), "")
