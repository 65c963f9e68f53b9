"""``expected_work``: what each trial is expected to cost, as numbers for the estimate of the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlmprof.store.heartbeat import TrialWork
from vlmprof.sweep.cost import ScheduledTrial


def expected_work(works: Sequence[ScheduledTrial], workers: int = 1) -> dict[str, TrialWork]:
    """Trial -> its work, without the score of trials whose answers are cut from longer ones.

    Args:
        works: Whole trials in the order in which they are expected to begin.
        workers: That run at once; each loads its own model.

    Returns:
        In the same order; empty where a cost is not known, because a sum without it would say too little.
    """
    if any(work.cost <= 0 for work in works):
        return {}
    copies = max(1, workers // max(1, len({work.load for work in works})))
    found: dict[str, TrialWork] = {}
    scored: dict[int, float] = {}
    loaded: Counter[int] = Counter()
    last: int | None = None
    for work in works:
        if work.load != last:
            scored.clear()  # the answers go with the model
        is_cut = scored.get(work.chain, 0.0) >= work.score > 0
        loads = work.load != last or (loaded[work.load] < copies and not is_cut)
        loaded[work.load] += loads
        scored[work.chain] = max(work.score, scored.get(work.chain, 0.0))
        found[work.trial] = TrialWork(load=float(loads), score=0.0 if is_cut else work.score, timing=work.timing)
        last = work.load
    return found
