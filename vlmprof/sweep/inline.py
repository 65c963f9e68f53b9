"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and its rows are the reference: a run on a cluster must give the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import final

from vlmprof.batch_size.cache import default_folder
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import Uncollected
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.versions import process, software
from vlmprof.monitor.live_state import Display, LiveState, NoMetricSink, TrialLabel
from vlmprof.monitor.loggers import EndedTrial, Loggers, numbers
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import Where
from vlmprof.sweep.cost import CostEstimator
from vlmprof.sweep.expected_work import expected_work
from vlmprof.trial.progress import Progress

REFRESH_S = 0.25
"""Least time between two updates of the display: thousands of short trials are not slowed down by it."""


@final
class _Reporter:
    """Hands on how far a trial is, and now and then shows it."""

    def __init__(self, board: LiveState, display: Display) -> None:
        self._board, self._display, self._shown = board, display, -math.inf

    def __call__(self, trial: str, progress: Progress) -> None:
        self._board.progress(trial, progress)
        if time.monotonic() - self._shown >= REFRESH_S:
            self._display.update(self._board.view())
            self._shown = time.monotonic()


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
        loggers: Get each trial as it ends.

    Raises:
        StoreError: nothing can be written to the folder any more.
    """
    from vlmprof.trial.executor import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline", policy=policy)
    live_state = LiveState(folder, NoMetricSink())
    if folder:
        live_state.recover(collector.settled())
    else:
        live_state.opened([plan.id for plan in plans], earlier=skipped)
    estimator, report = CostEstimator(), _Reporter(live_state, display)
    live_state.expect(expected_work([estimator.estimate(plan) for plan in plans]))
    live_state.start()
    try:
        for plan in plans:
            start = collector.begin(plan.id, software=software(), process=process())
            live_state.began(plan.id, TrialLabel.of(plan))
            try:
                result = executor.run(plan, partial(report, plan.id), start, collector)
            except Uncollected as error:
                raise error.__cause__ or error from None
            collector.finish(result, start.attempt)
            live_state.ended(result)
            if loggers is not None:
                loggers.log(EndedTrial(plan=plan, state=result.state, values=numbers(result.row)))
                loggers.wait()  # the next trial is timed in this process
    finally:
        live_state.close()
        display.update(live_state.view())
