"""``Task``: a dataset with its prompt, its metric and its limit on output tokens, as a value.

One question is always one sample. Ids are the dataset's own. ``subset`` takes the first questions of a seeded order, so
that every configuration answers the same questions and configurations can be compared sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, final

from vlmprof.errors import UserError, suggestion
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example, Prompt
from vlmprof.tasks._data.order import by_id, by_position, stratified

PromptOf = Callable[[Example], str]
"""Example -> the text of its prompt."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """What a job specifies about the data of a task; fields that the job does not set are empty."""

    path: str = ""
    """A local folder or file."""
    revision: str = ""
    """A commit of the repository on the Hub."""
    metric: str = ""
    """Name of the metric."""
    columns: tuple[tuple[str, str], ...] = ()
    """(field of a sample, column of the data) pairs."""
    index_from: int | None = None
    """The number of the first option, 0 or 1, where answers are indexes; None: not stated."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One row of a task's data as it was read."""

    where: str
    """The file and the number of the row, counted from 1."""
    example: Example | None = None
    """None where the row is faulty, or not part of the task."""
    fault: str = ""
    """Why no example can be made of it; empty for a sound row."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One dataset."""

    name: str
    revision: str
    """Changes whenever the data change; part of a trial's identity."""
    splits: tuple[str, ...]
    """The first one is the default."""
    examples: Callable[[str], Iterable[Example]]
    """Split -> all its examples, in a fixed order. Pictures are loaded lazily."""
    prompt: PromptOf
    metric: Metric
    max_new_tokens: int
    """Limit on output tokens of the score pass when no knob sets one; longer than any reference answer."""
    styles: Mapping[str, PromptOf] = field(default_factory=lambda: MappingProxyType({}))
    """Model family -> the prompt that it was trained with, for families that do not use ``prompt``."""
    order: Literal["id", "position"] = "id"
    """How the seeded order is computed. ``id``: from a hash of each id, independent of how the data are listed or
    sharded. ``position``: a permutation of the list, for a list that never changes."""
    notes: tuple[str, ...] = ()
    """What is done to the data that a reader of the results has to know."""
    published: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Split -> number of questions, as published."""
    rows: Callable[[str], Iterable[TaskRow]] | None = None
    """Split -> its rows with their faults, for ``vlmprof data check``; None for a task without files."""
    at: Callable[[DataSource], Task] | None = None
    """The same task on the data of a given source; None when the task has only built-in data, or has its source."""

    @property
    def identity(self) -> str:
        """The revision, with the metric's version where it is not the first: what decides the score of an answer."""
        scoring = "" if self.metric.version == 1 else f"+{self.metric.name}.{self.metric.version}"
        return f"{self.revision}{scoring}"

    def split(self, name: str) -> str:
        """The name of the split, checked; the default for an empty name.

        Raises:
            UserError: the task has no such split.
        """
        if name and name not in self.splits:
            raise UserError(f"task '{self.name}' has no split named '{name}'{suggestion(name, self.splits)}")
        return name or self.splits[0]

    def subset(self, split: str, samples: int | None, seed: int, stratify: str = "") -> tuple[Example, ...]:
        """The first ``samples`` of the split in a seeded order; a smaller subset is a prefix of a larger one.

        Args:
            split: Name of the split; empty for the default.
            samples: Number of samples; None for all.
            seed: Seed of the order.
            stratify: ``question_type``: every prefix of the order has the types in the proportions of the split.

        Raises:
            UserError: the split has fewer than ``samples``.
        """
        examples = list(self.examples(self.split(split)))
        if samples is not None and samples > len(examples):
            name = self.split(split)
            raise UserError(f"task '{self.name}' has {len(examples)} samples in '{name}', the job asks for {samples}")
        ordered = by_id(examples, seed) if self.order == "id" else by_position(examples, seed)
        return tuple((stratified(ordered) if stratify else ordered)[:samples])

    def ask(self, example: Example, family: str = "") -> Prompt:
        """The prompt of an example for a model of this family."""
        return Prompt(text=self.styles.get(family, self.prompt)(example), picture=example.picture)


def frame_notes(task: str, examples: Sequence[Example]) -> Iterator[str]:
    """A note where pictures have several frames or pages."""
    several = [example for example in examples if example.picture.frames > 1]
    if several:
        count = f"{len(several)} of {len(examples)} pictures have several frames or pages"
        first = f"the first is that of sample {several[0].id}, with {several[0].picture.frames}"
        yield f"{task}: {count}, of which only the first is used; {first}"
