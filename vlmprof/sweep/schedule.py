"""``Schedule``: which trial a free worker runs next. Pure: no ray, no clock.

Longest first, so that no long trial is left for the end. A worker stays with the model it has loaded while that has
work, and within it with answers it can cut to length; then it goes to the model with most work for each of its
workers. So different models run side by side, each is loaded as seldom as can be, and nobody is idle while there is
work that is worth a load.
"""

from __future__ import annotations

from bisect import insort_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import final

from vlmprof.sweep.cost import ScheduledTrial


@final
class _Chain:
    """Trials of one setting and several lengths: the longest is scored, the others are cut from its answers."""

    def __init__(self, works: Iterable[ScheduledTrial]) -> None:
        # Whoever waits for shards takes their answers: it is the longest, though little is left for itself.
        self.waiting = sorted(works, key=lambda work: (bool(work.after), work.cost), reverse=True)
        self.load = self.waiting[0].load
        self.after = frozenset().union(*(work.after for work in self.waiting))
        self.begun = False
        """Whether a worker has begun with it, and will come back for the rest."""

    @property
    def cost(self) -> float:
        return self.waiting[0].score + self.cut_cost

    @property
    def cut_cost(self) -> float:
        return sum(work.timing for work in self.waiting)


@final
class Schedule:
    """What is left to hand out, and who is at work on what."""

    def __init__(self, works: Sequence[ScheduledTrial]) -> None:
        """Nothing is handed out yet."""
        self.size = len(works)
        chains: dict[int, list[ScheduledTrial]] = {}
        for work in works:
            chains.setdefault(work.chain, []).append(work)
        self._chains = {key: _Chain(same) for key, same in chains.items()}
        self._loads: dict[int, list[_Chain]] = {chain.load: [] for chain in self._chains.values()}
        self._left = dict.fromkeys(self._loads, 0.0)
        self._working: Counter[int] = Counter()
        here = {work.trial for work in works}
        self._blocked = {key: chain.after & here for key, chain in self._chains.items() if chain.after & here}
        for key, chain in self._chains.items():
            if key not in self._blocked:
                self._open(chain)

    def next(self, last: ScheduledTrial | None) -> ScheduledTrial | None:
        """The trial for a worker that is free.

        Args:
            last: What this worker finished last; None for a new one.

        Returns:
            None where there is nothing that is worth its time now: either nothing is left, or what is left another
            worker will have done sooner.
        """
        chain = self._chain_for(last)
        if chain is None:
            return self._stolen()
        chain.begun = True
        return self._handed_out(chain, 0)

    def ended(self, work: ScheduledTrial, *, worker_lives: bool) -> None:
        """A trial has ended, however."""
        self._working[work.load] -= 1
        for key, after in list(self._blocked.items()):
            self._blocked[key] = after - {work.trial}
            if not self._blocked[key]:
                del self._blocked[key]
                self._open(self._chains[key])
        chain = self._chains[work.chain]
        if not worker_lives and chain.begun and chain.waiting:
            chain.begun = False  # whoever was to come back for the rest is gone
            self._open(chain)

    def _open(self, chain: _Chain) -> None:
        """May be begun with. The longest lies last, to be popped; equal ones as in the job."""
        insort_left(self._loads[chain.load], chain, key=lambda one: one.cost)
        self._left[chain.load] += chain.cost

    def _chain_for(self, last: ScheduledTrial | None) -> _Chain | None:
        if last is not None and self._chains[last.chain].waiting and self._chains[last.chain].begun:
            return self._chains[last.chain]
        if last is not None and self._loads[last.load]:
            return self._untouched(last.load)
        open_loads = [load for load, chains in self._loads.items() if chains]
        if not open_loads:
            return None
        return self._untouched(max(open_loads, key=lambda load: self._left[load] / (1 + self._working[load])))

    def _untouched(self, load: int) -> _Chain:
        chain = self._loads[load].pop()
        self._left[load] -= chain.cost
        return chain

    def _stolen(self) -> ScheduledTrial | None:
        """The shortest of a chain that another worker is at, if scoring it anew takes less than its turn would."""
        waiting = [chain for key, chain in self._chains.items() if chain.waiting and key not in self._blocked]
        if not waiting:
            return None
        chain = max(waiting, key=lambda chain: chain.cut_cost)
        alone = not any(self._working.values())  # nobody is left who would come back for it
        return self._handed_out(chain, -1) if alone or chain.waiting[-1].cost <= chain.cut_cost else None

    def _handed_out(self, chain: _Chain, place: int) -> ScheduledTrial:
        work = chain.waiting.pop(place)
        self._working[work.load] += 1
        return work


def chunks(works: Sequence[ScheduledTrial], size: int) -> Iterator[list[ScheduledTrial]]:
    """The same trials, at most ``size`` at a time, those of one load together, the costliest load first."""
    loads: dict[int, list[ScheduledTrial]] = {}
    for work in works:
        loads.setdefault(work.load, []).append(work)
    for same in loads.values():
        longest: dict[int, float] = {}
        for work in same:
            longest[work.chain] = max(work.cost, longest.get(work.chain, 0.0))
        same.sort(key=lambda work: (-longest[work.chain], work.chain, -work.cost))
    by_cost = sorted(loads.values(), key=lambda same: sum(work.cost for work in same), reverse=True)
    ordered = [work for same in by_cost for work in same]
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
