"""``Schedule``: which trial a free worker runs next. Pure: no ray, no clock.

Longest first, so that no long trial is left for the end. A worker keeps the model that it has loaded while there are
trials for it, and among them prefers those whose answers it can cut from longer ones that it has just computed. Then
it takes the model with the most remaining cost per worker. So different models run at the same time, each is loaded as
rarely as possible, and no worker is idle while there is work worth a model load.
"""

from __future__ import annotations

from bisect import insort_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import final

from vlmprof.sweep.cost import ScheduledTrial


@final
class _Chain:
    """Trials that differ only in output length: the longest is scored, the others are cut from its answers."""

    def __init__(self, trials: Iterable[ScheduledTrial]) -> None:
        # A trial that waits for shards gets their answers: it is the longest, even if little is left to score.
        self.waiting = sorted(trials, key=lambda trial: (bool(trial.after), trial.cost), reverse=True)
        self.load = self.waiting[0].load
        self.after = frozenset().union(*(trial.after for trial in self.waiting))
        self.begun = False
        """Whether a worker has started it, and will come back for the rest."""

    @property
    def cost(self) -> float:
        return self.waiting[0].score_cost + self.cut_cost

    @property
    def cut_cost(self) -> float:
        """Of all waiting trials, if their answers are cut from longer ones: only the timing passes."""
        return sum(trial.timing_cost for trial in self.waiting)


@final
class Schedule:
    """The trials that have not started, and how many workers run each model."""

    def __init__(self, trials: Sequence[ScheduledTrial]) -> None:
        """Nothing has started yet."""
        self.size = len(trials)
        chains: dict[int, list[ScheduledTrial]] = {}
        for trial in trials:
            chains.setdefault(trial.chain, []).append(trial)
        self._chains = {number: _Chain(members) for number, members in chains.items()}
        self._open_chains: dict[int, list[_Chain]] = {chain.load: [] for chain in self._chains.values()}
        """Load -> chains that a worker may start, the costliest last."""
        self._remaining = dict.fromkeys(self._open_chains, 0.0)
        """Load -> cost of its open chains."""
        self._workers: Counter[int] = Counter()
        """Load -> trials of it that are running."""
        names = {trial.id for trial in trials}
        self._blocked = {key: chain.after & names for key, chain in self._chains.items() if chain.after & names}
        """Chain -> what must end before it may start."""
        for key, chain in self._chains.items():
            if key not in self._blocked:
                self._open(chain)

    def next(self, last: ScheduledTrial | None) -> ScheduledTrial | None:
        """The trial for a worker that is free.

        Args:
            last: The trial that this worker ran last; None for a new worker.

        Returns:
            None if there is no trial worth starting now: either none is left, or another worker will have finished
            those that are left sooner.
        """
        chain = self._chain_for(last)
        if chain is None:
            return self._steal()
        chain.begun = True
        return self._start(chain, 0)

    def ended(self, trial: ScheduledTrial, *, worker_alive: bool) -> None:
        """Note that a trial has ended, successfully or not."""
        self._workers[trial.load] -= 1
        for key, after in list(self._blocked.items()):
            self._blocked[key] = after - {trial.id}
            if not self._blocked[key]:
                del self._blocked[key]
                self._open(self._chains[key])
        chain = self._chains[trial.chain]
        if not worker_alive and chain.begun and chain.waiting:
            chain.begun = False  # the worker that would have come back for the rest is gone
            self._open(chain)

    def _open(self, chain: _Chain) -> None:
        """Allow a chain to be started. The costliest is last, to be popped; equal ones are in the order of the job."""
        insort_left(self._open_chains[chain.load], chain, key=lambda other: other.cost)
        self._remaining[chain.load] += chain.cost

    def _chain_for(self, last: ScheduledTrial | None) -> _Chain | None:
        if last is not None and self._chains[last.chain].waiting and self._chains[last.chain].begun:
            return self._chains[last.chain]
        if last is not None and self._open_chains[last.load]:
            return self._pop_open(last.load)
        open_loads = [load for load, chains in self._open_chains.items() if chains]
        if not open_loads:
            return None
        return self._pop_open(max(open_loads, key=lambda load: self._remaining[load] / (1 + self._workers[load])))

    def _pop_open(self, load: int) -> _Chain:
        chain = self._open_chains[load].pop()
        self._remaining[load] -= chain.cost
        return chain

    def _steal(self) -> ScheduledTrial | None:
        """The cheapest trial of a chain that another worker has started, if scoring it anew ends before its turn."""
        waiting = [chain for key, chain in self._chains.items() if chain.waiting and key not in self._blocked]
        if not waiting:
            return None
        chain = max(waiting, key=lambda chain: chain.cut_cost)
        no_worker = not any(self._workers.values())  # no worker would come back for it
        return self._start(chain, -1) if no_worker or chain.waiting[-1].cost <= chain.cut_cost else None

    def _start(self, chain: _Chain, index: int) -> ScheduledTrial:
        trial = chain.waiting.pop(index)
        self._workers[trial.load] += 1
        return trial


def chunks(trials: Sequence[ScheduledTrial], size: int) -> Iterator[list[ScheduledTrial]]:
    """The same trials, at most ``size`` at a time, those of one load together, the costliest load first."""
    loads: dict[int, list[ScheduledTrial]] = {}
    for trial in trials:
        loads.setdefault(trial.load, []).append(trial)
    for members in loads.values():
        longest: dict[int, float] = {}
        for trial in members:
            longest[trial.chain] = max(trial.cost, longest.get(trial.chain, 0.0))
        members.sort(key=lambda trial: (-longest[trial.chain], trial.chain, -trial.cost))
    by_cost = sorted(loads.values(), key=lambda members: sum(trial.cost for trial in members), reverse=True)
    ordered = [trial for members in by_cost for trial in members]
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
