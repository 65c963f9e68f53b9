"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and it is the reference that the cluster must agree with, row for row.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.batch_size.cache import default_folder
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import Uncollected
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.versions import process, software
from vlmprof.monitor.live_state import Display, LiveState, NoMetricSink, Snapshot, TrialLabel
from vlmprof.monitor.loggers import EndedTrial, Loggers, numbers
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import Where
from vlmprof.trial.progress import Progress


def run_inline(  # noqa: PLR0913 (what one run is made of, each by its name)
    plans: Sequence[TrialPlan],
    skipped: int,
    collector: Collector,
    display: Display,
    *,
    gpus: float,
    policy: ChunkSpec | None = None,
    folder: Where | None = None,
    loggers: Loggers | None = None,
) -> None:
    """Run the plans one after another; each is kept as it ends.

    In ``folder``, that of the results, a heartbeat reports progress; ``loggers`` get each trial as it ends.

    Raises:
        StoreError: nothing can be written to the folder any more.
    """
    from vlmprof.trial.executor import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline", policy=policy)
    total = len(plans) + skipped
    board = LiveState(folder, NoMetricSink())
    board.start()
    try:
        for plan in plans:

            def report(progress: Progress, trial: str = plan.id) -> None:
                board.progress(trial, progress)
                settled = collector.settled()
                display.update(Snapshot(total=total, skipped=skipped, settled=settled, running={trial: progress}))

            begun = collector.begin(plan.id, software=software(), process=process())
            board.began(plan.id, TrialLabel.of(plan))
            try:
                result = executor.run(plan, report, begun, collector)
            except Uncollected as error:
                raise error.__cause__ or error from None
            collector.finish(result, begun.attempt)
            board.ended(result)
            if loggers is not None:
                loggers.log(EndedTrial(plan=plan, state=result.state, values=numbers(result.row)))
                loggers.wait()  # the next trial is timed in this process
    finally:
        board.close()
    display.update(Snapshot(total=total, skipped=skipped, settled=collector.settled()))
