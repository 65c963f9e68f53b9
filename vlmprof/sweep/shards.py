"""``Shard``: a part of one trial's samples, answered by another worker before the trial itself runs. Pure: no ray.

Shards are useful where there are more GPUs than configurations. A shard answers every n-th batch and sends its answers
to the collector, in the same chunks that let an interrupted trial go on. The trial runs once all its shards have ended,
successfully or not: it takes the answers there are, answers the rest, scores, audits and times, as it would after an
interruption. So the merge is exact, the number of shards may change between runs, and a shard that crashes costs time
but no sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from vlmprof.sweep.cost import ScheduledTrial

MIN_SAMPLES = 64
"""Fewest samples of a shard where the number of shards is ``auto``."""
NAME = re.compile(r"(?P<trial>\w+)-(?P<part>\d+)of(?P<of>\d+)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a trial's samples."""

    trial: str
    part: int
    """From 0."""
    of: int
    """Number of shards of the trial."""

    @property
    def name(self) -> str:
        """Its name in Ray Tune's configuration, counted from 1."""
        return f"{self.trial}-{self.part + 1}of{self.of}"

    @property
    def places(self) -> slice:
        """The indices of its batches among those of the trial."""
        return slice(self.part, None, self.of)

    @staticmethod
    def named(name: str) -> Shard | None:
        """The shard of this name; None if it is the name of a trial."""
        match = NAME.fullmatch(name)
        return Shard(trial=match["trial"], part=int(match["part"]) - 1, of=int(match["of"])) if match else None


def split(trials: Sequence[ScheduledTrial], shards: int | Literal["auto"], workers: int) -> list[ScheduledTrial]:
    """The same trials, each that has a score pass preceded by its shards.

    Of trials that differ only in output length only the longest is split: the others are cut from its answers.

    Args:
        trials: Unsplit trials.
        shards: Shards of each trial; auto: the workers divided by the trials to split, with at least ``MIN_SAMPLES``
            samples in each shard.
        workers: How many workers run at once.
    """
    longest: dict[int, ScheduledTrial] = {}
    for trial in trials:
        if trial.samples and trial.cost >= longest.get(trial.chain, trial).cost:
            longest[trial.chain] = trial
    to_split = {trial.id for trial in longest.values()}
    scheduled, last_chain = [], max((trial.chain for trial in trials), default=0)
    for trial in trials:
        parts = _count_parts(trial, shards, workers // len(to_split)) if trial.id in to_split else 1
        if parts < 2:
            scheduled.append(trial)
            continue
        names = [Shard(trial=trial.id, part=part, of=parts).name for part in range(parts)]
        for name in names:
            last_chain += 1
            part_cost = trial.score_cost / parts
            scheduled.append(replace(trial, id=name, chain=last_chain, score_cost=part_cost, timing_cost=0.0))
        scheduled.append(replace(trial, score_cost=0.0, after=frozenset(names)))
    return scheduled


def trials_of(scheduled: Sequence[ScheduledTrial]) -> list[str]:
    """The ids of these trials, and of those that these shards are part of, each once."""
    ids = [shard.trial if (shard := Shard.named(trial.id)) else trial.id for trial in scheduled]
    return list(dict.fromkeys(ids))


def _count_parts(trial: ScheduledTrial, shards: int | Literal["auto"], workers: int) -> int:
    return min(shards, trial.samples) if shards != "auto" else min(workers, trial.samples // MIN_SAMPLES)
