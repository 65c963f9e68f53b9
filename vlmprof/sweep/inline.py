"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and it is the reference that the cluster must agree with, row for row.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.errors import Uncollected
from vlmprof.measure.software import software
from vlmprof.plan.point import TrialPlan
from vlmprof.spec import ChunkSpec
from vlmprof.store.collector import Collector
from vlmprof.sweep.snapshot import Display, Snapshot
from vlmprof.trial.batching import BatchSizer
from vlmprof.trial.progress import Progress
from vlmprof.trial.sizing.atlas import default_folder


def run_inline(
    plans: Sequence[TrialPlan],
    skipped: int,
    collector: Collector,
    display: Display,
    *,
    gpus: float,
    policy: ChunkSpec | None = None,
) -> None:
    """Run the plans one after another; each is kept as it ends.

    Raises:
        StoreError: nothing can be written to the folder any more.
    """
    from vlmprof.trial.execute import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline", policy=policy)
    total = len(plans) + skipped
    for plan in plans:

        def report(progress: Progress, trial: str = plan.id) -> None:
            settled = collector.settled()
            display.update(Snapshot(total=total, skipped=skipped, settled=settled, running={trial: progress}))

        begun = collector.begin(plan.id, software=software())
        try:
            result = executor.run(plan, report, begun, collector)
        except Uncollected as error:
            raise error.__cause__ or error from None
        collector.finish(result, begun.attempt)
    display.update(Snapshot(total=total, skipped=skipped, settled=collector.settled()))
