"""``--inline``: the same trials in a ``for`` loop, in this process, without Ray.

Breakpoints work here, and it is the reference that the cluster must agree with, row for row.
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
from vlmprof.monitor.loggers import numbers
from vlmprof.monitor.tensorboard import write_run
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import Where, results_folder
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
    tensorboard: bool = False,
) -> None:
    """Run the plans one after another; each is kept as it ends.

    In ``folder``, that of the results, a pulse says how far it is, and TensorBoard runs are written if asked.

    Raises:
        StoreError: nothing can be written to the folder any more.
    """
    from vlmprof.trial.executor import Executor

    executor = Executor(BatchSizer(default_folder()), gpus=gpus, name="inline", policy=policy)
    board = LiveState(folder, NoMetricSink())
    if folder:
        board.recover(collector.settled())
    else:
        board.opened([plan.id for plan in plans], earlier=skipped)
    estimator, report = CostEstimator(), _Reporter(board, display)
    board.expect(expected_work([estimator.work(plan) for plan in plans]))
    board.start()
    try:
        for plan in plans:
            begun = collector.begin(plan.id, software=software(), process=process())
            board.began(plan.id, TrialLabel.of(plan))
            try:
                result = executor.run(plan, partial(report, plan.id), begun, collector)
            except Uncollected as error:
                raise error.__cause__ or error from None
            collector.finish(result, begun.attempt)
            board.ended(result)
            if tensorboard and folder and (mounted := results_folder(folder).folder):
                write_run(mounted, plan, numbers(result.row))
    finally:
        board.close()
        display.update(board.view())
