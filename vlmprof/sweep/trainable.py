"""``VlmTrainable``: a Tune class trainable that runs its trials with one ``Executor``.

``setup`` returns at once and the model is loaded inside ``step``: with a slow ``setup``, Tune would give the trial of
an actor that is still starting to a reused actor and kill the starting one, so that the second GPU would never be
used. For the same reason this module imports neither torch nor transformers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import ray
from ray import tune

from vlmprof.errors import Superseded, Uncollected
from vlmprof.escaping import visible
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.versions import process, software
from vlmprof.monitor.live_state import TrialLabel
from vlmprof.monitor.loggers import numbers
from vlmprof.plan.point import TrialPlan
from vlmprof.store.attempts import LOST_DEVICE
from vlmprof.sweep.shards import Shard
from vlmprof.sweep.watchdog import Watchdog
from vlmprof.trial.load_key import load_arguments
from vlmprof.trial.progress import Progress

REPORT_TIMEOUT_S = 10.0
"""Timeout of the call by which a process that is about to end reports why."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPolicy:
    """Settings against crashes and hangs of trials."""

    chunk: ChunkSpec
    timeout_s: float | None
    """See ``spec.SweepSpec``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableContext:
    """What all trials of a Tuner share."""

    plans: Mapping[str, TrialPlan]
    collector: Any
    sizer: Any
    gpus: float
    faults: FaultPolicy


@final
class VlmTrainable(tune.Trainable):
    """Runs one trial per ``step``; the process and its loaded model are reused for many trials."""

    def __repr__(self) -> str:
        """The name of this process on Ray's dashboard. Ray reads it once, before the first of many trials.

        So it names what rarely changes, the model and how it is loaded. The process's log names the running trial.
        """
        plan = self._shared.plans[self._trial]
        loaded = (f"{name}={value}" for name, value in load_arguments(plan).items())
        return f"{plan.model.label} {' '.join(loaded)}"

    def setup(self, config: dict[str, Any], shared: TrainableContext) -> None:
        self._take(config)
        self._shared = shared
        self._executor: Any = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._take(new_config)
        return True

    def _take(self, config: Mapping[str, Any]) -> None:
        """Parse the name of a trial, or of a shard of one."""
        self._shard = Shard.named(config["trial"])
        self._trial: str = self._shard.trial if self._shard else config["trial"]

    def step(self) -> dict[str, Any]:
        trial, attempt = self._trial, uuid.uuid4().hex[:12]
        try:
            result = self._run_shard(self._shard, attempt) if self._shard else self._run(trial, attempt)
            return {"done": True, **result}
        except Superseded:
            return {"done": True, "state": "superseded"}  # the process that has taken the trial reports how it ends

    def _run(self, trial: str, attempt: str) -> dict[str, Any]:
        shared = self._shared
        # Goes to this process's log, which the dashboard's page of actors links to.
        print(visible(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {trial}: {shared.plans[trial]}"), flush=True)
        start = ray.get(shared.collector.begin.remote(trial, attempt, software(), process()))
        if start.state is not None:
            return {"state": start.state}
        shared.collector.began.remote(trial, TrialLabel.of(shared.plans[trial]))  # only for displays: not awaited

        def report_cause(cause: str) -> None:
            ray.get(shared.collector.dying.remote(trial, attempt, cause), timeout=REPORT_TIMEOUT_S)

        with Watchdog(shared.faults.timeout_s, report_cause) as self._watchdog:
            try:
                result = self._warm_executor().run(shared.plans[trial], self._report, start, self._answer_store())
            except Uncollected as error:
                raise error.__cause__ or error from None
            except Exception as error:
                report_cause(_cause(error))
                raise
            ray.get(shared.collector.finish.remote(result, attempt))
        return {"state": result.state, "row": numbers(result.row)}  # the row is for loggers only

    def _run_shard(self, shard: Shard, attempt: str) -> dict[str, Any]:
        """Answer a part of a trial's samples; the trial itself does the rest."""
        shared = self._shared
        start = ray.get(shared.collector.begin.remote(shard.trial, attempt, software(), process(), shard=True))
        if start.state is not None:
            return {"state": start.state}
        plan = shared.plans[shard.trial]
        if shard.part == 0:
            shared.collector.began.remote(shard.trial, TrialLabel.of(plan))  # once for all shards

        def ignore_cause(cause: str) -> None:
            """Report nothing for a shard: its trial will hang at the same sample and report it."""

        with Watchdog(shared.faults.timeout_s, ignore_cause) as watchdog:

            def report(progress: Progress) -> None:
                watchdog.beat(progress)
                if shard.part == 0:
                    estimate = replace(progress, done=progress.done * shard.of, total=progress.total * shard.of)
                    shared.collector.progress.remote(shard.trial, estimate)

            try:
                self._warm_executor().run_part(plan, report, start, self._answer_store(), shard.places)
            except Uncollected as error:
                raise error.__cause__ or error from None
        return {"state": "answered"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the results of a trial are in the tables."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: a trial that was interrupted runs again."""

    def _warm_executor(self) -> Any:
        if self._executor is None:
            from vlmprof.trial.executor import Executor

            shared = self._shared
            self._executor = Executor(shared.sizer, gpus=shared.gpus, name="tune", policy=shared.faults.chunk)
        return self._executor

    def _answer_store(self) -> Any:
        from vlmprof.sweep.actors import RemoteAnswerStore

        return RemoteAnswerStore(self._shared.collector)

    def _report(self, progress: Progress) -> None:
        self._watchdog.beat(progress)
        self._shared.collector.progress.remote(
            self._trial, progress
        )  # not awaited: a display must not slow a trial down


def _cause(error: Exception) -> str:
    """Why the process ends; compares torch's exception by its name, because torch may not be imported."""
    message = str(error).splitlines()[0] if str(error) else ""
    what = LOST_DEVICE if type(error).__name__ == "AcceleratorError" else type(error).__name__
    return f"{what}: {message}".rstrip(": ")
