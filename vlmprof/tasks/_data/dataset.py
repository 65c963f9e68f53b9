"""``Dataset``: the declaration of a task whose rows are stored in files. Most tasks of the package are one of these.

It declares where the rows are (a repository on the Hub with a pinned commit, or files of the same layout in a folder),
which columns are read, how a row becomes an example, and what a reader of the results has to know: metric, prompts,
limit on output tokens, licence, source of the pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from vlmprof.errors import UserError, as_written
from vlmprof.metrics._gold import LETTERS
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example
from vlmprof.tasks._data.files import hub_files, local_files, pinned
from vlmprof.tasks._data.index import Columns, IndexedRow, read_index, revision_of
from vlmprof.tasks.task import DataSource, PromptOf, Task, TaskRow

Read = Callable[[IndexedRow], Example | None]
"""Row -> its example, or None when the row is not part of the task."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The files of a split in the repository."""

    files: str
    """Glob, relative to the root of the repository."""
    count: int
    """Published number of questions."""
    pictures: str = ""
    """Glob of the files that hold the pictures, when the rows do not hold them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How rows are joined with pictures that are stored in separate files."""

    row: str
    """Column of a row that holds the key of its picture."""
    picture: str
    """Column of the picture files that holds the same key."""
    image: str = "image"
    """Column of the picture files that holds the picture."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """One public dataset; compared by identity, because each dataset has only one instance."""

    name: str
    repository: str
    """On the Hub, ``owner/name``; empty when no repository has files that can be read without running code."""
    revision: str
    """The commit that is read; empty when none is known, so that a job must name it."""
    splits: Mapping[str, Split]
    """The first one is the default."""
    columns: Columns
    read: Read
    metric: Metric
    prompt: PromptOf
    max_new_tokens: int
    licence: str
    """Licence of questions and answers, as the publisher states it."""
    pictures: str
    """Source of the pictures, and their licence."""
    clusters: str
    """What questions of one cluster share, such as an image; they are statistically dependent."""
    styles: Mapping[str, PromptOf] = field(default_factory=lambda: MappingProxyType({}))
    join: Join | None = None
    content_ids: bool = False
    """The rows have no id: ``content_id`` makes one, and rows with equal content get a running number."""
    edition: str = ""
    """Changed when vlmprof asks or reads the same data differently; part of a trial's identity unless empty."""
    notes: tuple[str, ...] = ()
    """What vlmprof does to the data that a reader of the results has to know."""
    obtain: str = ""
    """How to get the data when they are not on the Hub."""

    def task(self) -> Task:
        """The task as it is registered. No file is looked for until ``at`` has set the source of the data."""
        return Task(
            name=self.name,
            revision=self.revision,
            splits=tuple(self.splits),
            examples=lambda split: examples_at(self, DataSource(), split),
            prompt=self.prompt,
            metric=self.metric,
            max_new_tokens=self.max_new_tokens,
            styles=self.styles,
            notes=self.notes,
            published=MappingProxyType({name: split.count for name, split in self.splits.items()}),
            at=self._from_source,
        )

    def files(self, source: DataSource, split: str, *, pictures: bool = False) -> tuple[Path, ...]:
        """The files of a split, or those of its pictures.

        Raises:
            UserError: they do not exist and cannot be downloaded; the message says how to get them.
        """
        layout = self.splits[split]
        pattern = layout.pictures if pictures else layout.files
        if source.path:
            folder = Path(source.path).expanduser()
            return local_files(folder, [pattern], "pictures" if pictures else split, self._download_hint())
        revision = pinned(source.revision or self.revision, self.name, self.repository)
        return hub_files(self.repository, revision, [pattern], self._download_hint())

    def _from_source(self, source: DataSource) -> Task:
        """The same task on the data of a source. Local files are fingerprinted; the Hub is not accessed."""
        refused = [name for name in ("metric", "columns") if getattr(source, name)]
        if source.index_from is not None:
            raise UserError(f"task '{self.name}' knows how its answers are written; remove 'index_from:'")
        if refused:
            names = " and ".join(refused)
            raise UserError(
                f"task '{self.name}' brings its own {names}; a job can set {names} only for the task 'local'"
            )
        if not source.path and not self.repository:
            raise UserError(f"task '{self.name}' needs 'path:', a folder with its data; {self._download_hint()}")
        if source.path:
            revision = revision_of(self._local_files(source), self.columns, self._local_pictures(source))
        else:
            revision = pinned(source.revision or self.revision, self.name, self.repository)
        if self.edition:
            revision = f"{revision}-{self.edition}"
        return replace(
            self.task(),
            revision=revision,
            examples=lambda split: examples_at(self, source, split, revision),
            rows=lambda split: read_rows(self, source, split),
            at=None,
        )

    def _local_files(self, source: DataSource) -> list[Path]:
        """The files of all splits that exist locally; at least one split must."""
        files: list[Path] = []
        for split in self.splits:
            with suppress(UserError):  # a split that the job does not use may be missing
                files += self.files(source, split)
        return sorted(set(files)) or list(self.files(source, next(iter(self.splits))))

    def _local_pictures(self, source: DataSource) -> list[Path]:
        """The files that hold the pictures of these, where they are separate and exist."""
        files: list[Path] = []
        for split in self.splits if self.join is not None else ():
            with suppress(UserError):  # who reads the pictures reports that they are missing
                files += self.files(source, split, pictures=True)
        return sorted(set(files))

    def _download_hint(self) -> str:
        """How to get the data, for error messages."""
        if not self.repository:
            return f"to get it: {self.obtain}"
        patterns = [pattern for split in self.splits.values() for pattern in (split.files, split.pictures) if pattern]
        include = " ".join(f"--include '{pattern}'" for pattern in patterns)
        revision = f"--revision {self.revision} " if self.revision else ""
        return (
            f"on a machine with network access run: hf download {self.repository} --repo-type dataset"
            f" {revision}{include} --local-dir FOLDER; then add 'path: FOLDER' to the task in the job"
        )


@lru_cache(maxsize=4)
def examples_at(dataset: Dataset, source: DataSource, split: str, revision: str = "") -> tuple[Example, ...]:
    """All examples of a split, each with a unique id.

    Args:
        dataset: The task.
        source: Where its data are.
        split: Name of the split.
        revision: Identity of the data: other data are read anew.

    Raises:
        UserError: the data cannot be read, or are not what the task expects.
    """
    examples = []
    for row in read_rows(dataset, source, split):
        if row.fault:
            raise UserError(f"task '{dataset.name}': {row.where}: {row.fault}")
        examples += [] if row.example is None else [row.example]
    return checked(dataset.name, numbered(examples) if dataset.content_ids else examples)


def read_rows(dataset: Dataset, source: DataSource, split: str) -> Iterator[TaskRow]:
    """The rows of a split, each with its example or with what is wrong with it.

    Raises:
        UserError: a file cannot be read, or is not of the task's layout.
    """
    rows = read_index(dataset.files(source, split), dataset.columns)
    if dataset.join is not None:
        rows = _joined(rows, dataset.join, dataset.files(source, split, pictures=True))
    return (read_row(row, dataset.read, dataset.metric) for row in rows)


def read_row(row: IndexedRow, read: Read, metric: Metric) -> TaskRow:
    """The example of a row with its reference answers checked, or what is wrong with the row."""
    try:
        example = read(row)
        return TaskRow(where=row.where, example=None if example is None else with_checked_gold(metric, example))
    except UserError as error:
        return TaskRow(where=row.where, fault=str(error))
    except Exception as error:  # a value of another type than the task expects
        values = ", ".join(f"{name}: {as_written(value)}" for name, value in row.values.items())
        return TaskRow(where=row.where, fault=f"{type(error).__name__}: {error} (in the row {values[:300]})")


def checked(task: str, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples in unchanged order, after checks.

    Raises:
        UserError: there are no examples, or two have the same id.
    """
    if not examples:
        raise UserError(f"task '{task}': the files hold no sample")
    duplicate = next((name for name, count in Counter(example.id for example in examples).items() if count > 1), None)
    if duplicate is not None:
        raise UserError(f"task '{task}': two samples have the id '{duplicate}'; ids must be unique")
    return tuple(examples)


def with_checked_gold(metric: Metric, example: Example) -> Example:
    """The example, if its reference answers can be reached by a perfect model.

    Raises:
        UserError: they cannot, or the example has more options than letters; the message names the sample.
    """
    if len(example.choices) > len(LETTERS):
        raise UserError(f"'{example.id}' has {len(example.choices)} options, more than there are letters")
    return metric.check_gold(example)


def sample(row: IndexedRow, **fields: Any) -> Example:
    """The example of a row. ``id``, ``question`` and ``answers`` are required, the rest as in ``records.Example``.

    Answers and options are converted to strings. The default cluster is the picture.
    """
    if fields["question"] is None:
        raise UserError(f"the row with the id '{fields['id']}' has no question (null); expected a text")
    values = {"question_type": "", "cluster": row.identity or fields["id"], **fields}
    for name in ("id", "question", "question_type", "cluster"):
        values[name] = str(values[name]).strip()
    for name in ("answers", "choices"):
        values[name] = tuple(str(item) for item in values.get(name, ()))
    return Example(**values, picture=row.picture)


def content_id(row: IndexedRow, *parts: object) -> str:
    """An id for rows that have none: a digest of the picture and the given parts, independent of the order of rows."""
    content = "\0".join([row.identity, *(str(part) for part in parts)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def numbered(examples: Sequence[Example]) -> list[Example]:
    """The examples, with a number appended to repeated ids: ``x``, ``x-2``, ``x-3``."""
    counts: Counter[str] = Counter()
    unique = []
    for example in examples:
        counts[example.id] += 1
        count = counts[example.id]
        unique.append(example if count == 1 else replace(example, id=f"{example.id}-{count}"))
    return unique


def _joined(rows: Sequence[IndexedRow], join: Join, files: Sequence[Path]) -> list[IndexedRow]:
    pictures = read_index(files, Columns(required=(join.picture,), image=join.image))
    by_key = {str(picture.values[join.picture]): picture for picture in pictures}
    missing = next((row for row in rows if str(row.values[join.row]) not in by_key), None)
    if missing is not None:
        raise UserError(f"a question refers to the picture '{missing.values[join.row]}', which no picture file holds")
    keyed = [(row, str(row.values[join.row])) for row in rows]
    return [replace(row, picture=by_key[key].picture, identity=key) for row, key in keyed]
