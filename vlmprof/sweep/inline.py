"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and it is the reference that the cluster must agree with, row for row.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import Collector
from vlmprof.sweep.snapshot import Display, Snapshot
from vlmprof.trial.batching import BatchSizer
from vlmprof.trial.progress import Progress
from vlmprof.trial.sizing.atlas import default_folder


def run_inline(
    plans: Sequence[TrialPlan], skipped: int, collector: Collector, display: Display, *, gpus: float
) -> None:
    """Run the plans one after another; each is kept as it ends."""
    from vlmprof.trial.execute import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline")
    total = len(plans) + skipped
    for plan in plans:

        def report(progress: Progress, trial: str = plan.id) -> None:
            settled = collector.settled()
            display.update(Snapshot(total=total, skipped=skipped, settled=settled, running={trial: progress}))

        collector.begin(plan.id)
        collector.finish(executor.run(plan, report))
    display.update(Snapshot(total=total, skipped=skipped, settled=collector.settled()))
