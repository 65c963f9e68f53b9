"""``expected_work``: what each trial is expected to cost, as numbers for the estimate of the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlmprof.store.heartbeat import TrialWork
from vlmprof.sweep.cost import ScheduledTrial


def expected_work(trials: Sequence[ScheduledTrial], workers: int = 1) -> dict[str, TrialWork]:
    """Trial -> its work, without the score of trials whose answers are cut from longer ones.

    Args:
        trials: Whole trials in the order in which they are expected to begin.
        workers: Workers that run at once; each loads its own model.

    Returns:
        In the same order; empty where a cost is not known, because a sum without it would be too small.
    """
    if any(trial.cost <= 0 for trial in trials):
        return {}
    copies = max(1, workers // max(1, len({trial.load for trial in trials})))
    expected: dict[str, TrialWork] = {}
    scored: dict[int, float] = {}
    loaded: Counter[int] = Counter()
    last: int | None = None
    for trial in trials:
        if trial.load != last:
            scored.clear()  # answers are kept with the loaded model
        is_cut = scored.get(trial.chain, 0.0) >= trial.score_cost > 0
        loads = trial.load != last or (loaded[trial.load] < copies and not is_cut)
        loaded[trial.load] += loads
        scored[trial.chain] = max(trial.score_cost, scored.get(trial.chain, 0.0))
        score = 0.0 if is_cut else trial.score_cost
        expected[trial.id] = TrialWork(load=float(loads), score=score, timing=trial.timing_cost)
        last = trial.load
    return expected
