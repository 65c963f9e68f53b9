"""``Shard``: a part of one trial's samples, answered by a worker of its own before the trial runs. Pure: no ray.

Shards are what more GPUs than configurations are good for. A shard answers every n-th batch and sends what it has to
the collector, in the chunks by which an interrupted trial goes on. The trial runs when its shards have ended, however:
it takes what is answered, answers what is not, judges, audits and times, as it would after an interruption. So the
merge is exact, the number of shards may change between runs, and a shard that dies costs time and no sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from vlmprof.sweep.cost import ScheduledTrial

LEAST = 64
"""Samples that are worth a shard of their own, where the number of shards is ours to choose."""
NAME = re.compile(r"(?P<trial>\w+)-(?P<part>\d+)of(?P<of>\d+)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a trial's samples."""

    trial: str
    part: int
    """From 0."""
    of: int

    @property
    def name(self) -> str:
        """As Ray Tune carries it, counted from 1."""
        return f"{self.trial}-{self.part + 1}of{self.of}"

    @property
    def places(self) -> slice:
        """Of its batches within the trial's."""
        return slice(self.part, None, self.of)

    @staticmethod
    def named(name: str) -> Shard | None:
        """The shard by this name; None where the name is a trial's."""
        found = NAME.fullmatch(name)
        return Shard(trial=found["trial"], part=int(found["part"]) - 1, of=int(found["of"])) if found else None


def split(works: Sequence[ScheduledTrial], shards: int | Literal["auto"], workers: int) -> list[ScheduledTrial]:
    """The same trials, with shards before those that are scored.

    Of trials that differ in the length of answers alone only the longest is split: the others are cut from its answers.

    Args:
        works: Whole trials.
        shards: For each trial; auto: as many as there are workers for each, of at least ``LEAST`` samples.
        workers: That run at once.
    """
    longest: dict[int, ScheduledTrial] = {}
    for work in works:
        if work.samples and work.cost >= longest.get(work.chain, work).cost:
            longest[work.chain] = work
    heads = {work.trial for work in longest.values()}
    found, numbers = [], max((work.chain for work in works), default=0)
    for work in works:
        parts = _parts(work, shards, workers // len(heads)) if work.trial in heads else 1
        if parts < 2:
            found.append(work)
            continue
        names = [Shard(trial=work.trial, part=part, of=parts).name for part in range(parts)]
        for name in names:
            numbers += 1
            found.append(replace(work, trial=name, chain=numbers, score=work.score / parts, timing=0.0))
        found.append(replace(work, score=0.0, after=frozenset(names)))
    return found


def trials_of(works: Sequence[ScheduledTrial]) -> list[str]:
    """The trials that these works are, or are parts of, each once."""
    names = [shard.trial if (shard := Shard.named(work.trial)) else work.trial for work in works]
    return list(dict.fromkeys(names))


def _parts(work: ScheduledTrial, shards: int | Literal["auto"], each: int) -> int:
    return min(shards, work.samples) if shards != "auto" else min(each, work.samples // LEAST)
