"""``Dataset``: a task whose rows lie in files, as a declaration. A task of the package is one of these and little else.

It says where the rows are (a repository on the Hub with a pinned commit, or files of the same layout in a folder),
which columns it reads, how a row becomes an example, and what a reader of its numbers has to know: metric, prompts,
cap, licence, where the pictures come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example
from vlmprof.tasks._data.files import fingerprint, hub_files, local_files, pinned
from vlmprof.tasks._data.index import Columns, IndexedRow, read_index
from vlmprof.tasks.task import DataSource, PromptOf, Task

Read = Callable[[IndexedRow], Example | None]
"""A row -> its example, or None where the row is not part of the task."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the rows of a split lie in the repository."""

    files: str
    """Glob of the repository's layout."""
    count: int
    """Questions there are, as published."""
    pictures: str = ""
    """Glob of the files that hold the pictures, where they are not in the rows."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How rows find pictures that lie in files of their own."""

    row: str
    """Column of a row that names its picture."""
    picture: str
    """Column of the picture files that it is named by."""
    image: str = "image"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """One public dataset; compared by identity, because there is one of each."""

    name: str
    repository: str
    """On the Hub, ``owner/name``; empty where no repository holds it in files that can be read without running code."""
    revision: str
    """The commit that is read; empty where none is known, so that a job must name it."""
    splits: Mapping[str, Split]
    """The first is the default."""
    columns: Columns
    read: Read
    metric: Metric
    prompt: PromptOf
    max_new_tokens: int
    licence: str
    """Of questions and answers, as the publisher states it."""
    pictures: str
    """Where the pictures come from, and under which terms."""
    clusters: str
    """What makes two questions dependent."""
    styles: Mapping[str, PromptOf] = field(default_factory=lambda: MappingProxyType({}))
    join: Join | None = None
    content_ids: bool = False
    """The rows have no id; ``content_id`` makes one, and rows that are equal in all are told apart by number."""
    obtain: str = ""
    """How to get the data where they are not on the Hub."""

    def task(self) -> Task:
        """The task as the registry knows it: nothing is looked for before ``at`` says where."""
        return Task(
            name=self.name,
            revision=self.revision,
            splits=tuple(self.splits),
            examples=lambda split: examples_at(self, DataSource(), split),
            prompt=self.prompt,
            metric=self.metric,
            max_new_tokens=self.max_new_tokens,
            styles=self.styles,
            at=self._at,
        )

    def files(self, place: DataSource, split: str, *, pictures: bool = False) -> tuple[Path, ...]:
        """The files of a split, or those of its pictures.

        Raises:
            UserError: they are not there and cannot be fetched; it says how to get them.
        """
        part = self.splits[split]
        pattern = part.pictures if pictures else part.files
        if place.path:
            return local_files(Path(place.path).expanduser(), [pattern], "pictures" if pictures else split, self._get())
        revision = pinned(place.revision or self.revision, self.name, self.repository)
        return hub_files(self.repository, revision, [pattern], self._get())

    def _at(self, place: DataSource) -> Task:
        """The same task on the data of a place; local data are looked at, the Hub is not asked."""
        refused = [name for name in ("metric", "columns") if getattr(place, name)]
        if refused:
            raise UserError(f"task '{self.name}' brings its own {' and '.join(refused)}; the task 'local' takes them")
        if not place.path and not self.repository:
            raise UserError(f"task '{self.name}' needs 'path:', a folder with its data; {self._get()}")
        if place.path:
            revision = fingerprint(self._local(place))
        else:
            revision = pinned(place.revision or self.revision, self.name, self.repository)
        return replace(self.task(), revision=revision, examples=lambda split: examples_at(self, place, split), at=None)

    def _local(self, place: DataSource) -> list[Path]:
        """All files of all splits that are there; at least one split must be."""
        found: list[Path] = []
        for split in self.splits:
            try:
                found += self.files(place, split)
            except UserError:
                continue  # the split that a job does not use need not be there
        return sorted(set(found)) or list(self.files(place, next(iter(self.splits))))

    def _get(self) -> str:
        if not self.repository:
            return f"get it so: {self.obtain}"
        patterns = [part for split in self.splits.values() for part in (split.files, split.pictures) if part]
        include = " ".join(f"--include '{pattern}'" for pattern in patterns)
        revision = f"--revision {self.revision} " if self.revision else ""
        return (
            f"where there is a network: hf download {self.repository} --repo-type dataset {revision}{include}"
            " --local-dir FOLDER; then say 'path: FOLDER' beside the task"
        )


@lru_cache(maxsize=4)
def examples_at(dataset: Dataset, place: DataSource, split: str) -> tuple[Example, ...]:
    """All examples of a split, each with an id of its own.

    Raises:
        UserError: the data cannot be read, or are not what the task expects.
    """
    rows = read_index(dataset.files(place, split), dataset.columns)
    if dataset.join is not None:
        rows = _joined(rows, dataset.join, dataset.files(place, split, pictures=True))
    examples = [example for row in rows if (example := dataset.read(row)) is not None]
    return checked(dataset.name, numbered(examples) if dataset.content_ids else examples)


def checked(task: str, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples, in their order.

    Raises:
        UserError: none, or two of one id.
    """
    if not examples:
        raise UserError(f"task '{task}': the files hold no sample")
    twice = next((name for name, count in Counter(one.id for one in examples).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"task '{task}': two samples have the id '{twice}'; ids must be unique")
    return tuple(examples)


def sample(row: IndexedRow, **said: Any) -> Example:
    """The example of a row: ``id``, ``question`` and ``answers`` are needed, the rest as in ``records.Example``.

    Answers and options become texts; the cluster is the picture where nothing else is said.
    """
    plain = {"question_type": "", "cluster": row.identity or said["id"], **said}
    for name in ("id", "question", "question_type", "cluster"):
        plain[name] = str(plain[name]).strip()
    for name in ("answers", "choices"):
        plain[name] = tuple(str(each) for each in plain.get(name, ()))
    return Example(**plain, picture=row.picture)


def content_id(row: IndexedRow, *parts: object) -> str:
    """An id for rows that have none: a digest of the picture and of what is asked, whatever the order of the rows."""
    said = "\0".join([row.identity, *(str(part) for part in parts)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def numbered(examples: Sequence[Example]) -> list[Example]:
    """The examples, equal ids told apart: ``x``, ``x-2``, ``x-3``."""
    seen: Counter[str] = Counter()
    named = []
    for example in examples:
        seen[example.id] += 1
        count = seen[example.id]
        named.append(example if count == 1 else replace(example, id=f"{example.id}-{count}"))
    return named


def _joined(rows: Sequence[IndexedRow], join: Join, files: Sequence[Path]) -> list[IndexedRow]:
    held = read_index(files, Columns(required=(join.picture,), image=join.image))
    by_name = {str(one.values[join.picture]): one for one in held}
    missing = next((row for row in rows if str(row.values[join.row]) not in by_name), None)
    if missing is not None:
        raise UserError(f"the picture files hold no '{missing.values[join.row]}', which a question is about")
    named = [(row, str(row.values[join.row])) for row in rows]
    return [replace(row, picture=by_name[name].picture, identity=name) for row, name in named]
