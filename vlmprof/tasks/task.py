"""``Task``: a dataset with its prompt, its metric and its natural answer length, as a value.

One question is one sample, always. Ids are the dataset's own. ``subset`` is the same for every configuration: all
questions in a seeded order cut to length, so that configurations are compared pairwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, final

from vlmprof.errors import UserError, suggestion
from vlmprof.metrics.metric import Metric
from vlmprof.records import Example, Prompt
from vlmprof.tasks._data.order import by_id, by_position, spread

PromptOf = Callable[[Example], str]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where a job says a task's data lie, and what it says about them; empty where it says nothing."""

    path: str = ""
    """A folder or a file."""
    revision: str = ""
    """A commit of the repository on the Hub."""
    metric: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    """(field of a sample, column of the data) pairs."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One dataset."""

    name: str
    revision: str
    """Changes when the data do; part of a trial's identity."""
    splits: tuple[str, ...]
    """The first is the default."""
    examples: Callable[[str], Iterable[Example]]
    """Split -> all its examples, in an order that never changes. Pictures are loaded lazily."""
    prompt: PromptOf
    metric: Metric
    max_new_tokens: int
    """Cap of the score pass where no knob sets one; longer than any reference answer."""
    styles: Mapping[str, PromptOf] = field(default_factory=lambda: MappingProxyType({}))
    """Model family -> the prompt it was trained to answer, where that is not ``prompt``."""
    order: Literal["id", "position"] = "id"
    """What the seeded order is made from. ``id``: a hash of each id, so that it does not matter how the data are
    listed or sharded. ``position``: a permutation of the list, for a list that never changes."""
    at: Callable[[DataSource], Task] | None = None
    """The same task on data that lie elsewhere; None where the task has no data but its own."""

    def split(self, name: str) -> str:
        """The split by this name; the default for an empty name.

        Raises:
            UserError: there is none.
        """
        if name and name not in self.splits:
            raise UserError(f"task '{self.name}' has no split named '{name}'{suggestion(name, self.splits)}")
        return name or self.splits[0]

    def subset(self, split: str, samples: int | None, seed: int, stratify: str = "") -> tuple[Example, ...]:
        """The first ``samples`` of the split in a seeded order; a smaller subset is the beginning of a larger one.

        Args:
            split: Empty for the default.
            samples: How many; None for all.
            seed: Of the order.
            stratify: ``question_type``: every beginning of the order holds the types in their shares of the split.

        Raises:
            UserError: the split has fewer than ``samples``.
        """
        everything = list(self.examples(self.split(split)))
        if samples is not None and samples > len(everything):
            name = self.split(split)
            raise UserError(f"task '{self.name}' has {len(everything)} samples in '{name}', the job asks for {samples}")
        ordered = by_id(everything, seed) if self.order == "id" else by_position(everything, seed)
        return tuple((spread(ordered) if stratify else ordered)[:samples])

    def ask(self, example: Example, family: str = "") -> Prompt:
        """What a model of this family is shown for an example."""
        return Prompt(text=self.styles.get(family, self.prompt)(example), picture=example.picture)
