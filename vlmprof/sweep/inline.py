"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and its rows are the reference: a run on a cluster must give the same.
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
    """Run the plans one after another; each is written as it ends.

    Args:
        plans: The trials to run.
        skipped: Trials of the job that an earlier run has finished.
        collector: Writes the results.
        display: Shows the progress.
        gpus: GPUs of a trial; 0 on a CPU.
        policy: When answers are sent to the collector.
        folder: The results folder, for the heartbeat; None writes none.
        loggers: They get each trial as it ends.

    Raises:
        StoreError: nothing can be written to the folder any more.
    """
    from vlmprof.trial.executor import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline", policy=policy)
    total = len(plans) + skipped
    live_state = LiveState(folder, NoMetricSink())
    live_state.start()
    try:
        for plan in plans:

            def report(progress: Progress, trial: str = plan.id) -> None:
                live_state.progress(trial, progress)
                settled = collector.settled()
                display.update(Snapshot(total=total, skipped=skipped, settled=settled, running={trial: progress}))

            start = collector.begin(plan.id, software=software(), process=process())
            live_state.began(plan.id, TrialLabel.of(plan))
            try:
                result = executor.run(plan, report, start, collector)
            except Uncollected as error:
                raise error.__cause__ or error from None
            collector.finish(result, start.attempt)
            live_state.ended(result)
            if loggers is not None:
                loggers.log(EndedTrial(plan=plan, state=result.state, values=numbers(result.row)))
                loggers.wait()  # the next trial is timed in this process
    finally:
        live_state.close()
    display.update(Snapshot(total=total, skipped=skipped, settled=collector.settled()))
