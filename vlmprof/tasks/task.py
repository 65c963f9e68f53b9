"""``Task``: a dataset with its prompt, its metric and its natural answer length, as a value.

One question is one sample, always. Ids are the dataset's own. ``subset`` is the same for every configuration: a
seeded permutation of all questions cut to length, so that configurations are compared pairwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from vlmprof.errors import UserError, suggestion
from vlmprof.records import Example, Prompt

Metric = Callable[[str, tuple[str, ...]], float]
"""(prediction, reference answers) -> score from 0 to 1."""


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
    prompt: Callable[[Example], str]
    metric: Metric
    metric_name: str
    max_new_tokens: int
    """Cap of the score pass where no knob sets one; longer than any reference answer."""

    def split(self, name: str) -> str:
        """The split by this name; the default for an empty name.

        Raises:
            UserError: there is none.
        """
        if name and name not in self.splits:
            raise UserError(f"task '{self.name}' has no split named '{name}'{suggestion(name, self.splits)}")
        return name or self.splits[0]

    def subset(self, split: str, samples: int | None, seed: int) -> tuple[Example, ...]:
        """The first ``samples`` of a seeded permutation of the split; a smaller subset is a prefix of a larger.

        Raises:
            UserError: the split has fewer than ``samples``.
        """
        everything = list(self.examples(self.split(split)))
        if samples is not None and samples > len(everything):
            name = self.split(split)
            raise UserError(f"task '{self.name}' has {len(everything)} samples in '{name}', the job asks for {samples}")
        random.Random(seed).shuffle(everything)
        return tuple(everything[:samples])

    def ask(self, example: Example) -> Prompt:
        """What the model is shown for an example."""
        return Prompt(text=self.prompt(example), picture=example.picture)
