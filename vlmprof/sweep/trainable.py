"""Tune's life cycle around one ``Executor``.

``setup`` does nothing that takes time and the model is loaded inside ``step``: with a slow ``setup`` a freed warm actor
takes the trial of an actor that is still starting, that one is killed, and the second GPU never works. For the same
reason this module imports neither torch nor transformers.
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

LAST_WORDS_S = 10.0
"""For a process that is about to end to say why."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPolicy:
    """What is done against deaths of trials."""

    chunk: ChunkSpec
    timeout_s: float | None
    """See ``spec.SweepSpec``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableContext:
    """What every trial of a Tuner is given."""

    plans: Mapping[str, TrialPlan]
    collector: Any
    sizer: Any
    gpus: float
    care: FaultPolicy


@final
class VlmTrainable(tune.Trainable):
    """One trial a ``step``; the process, and the model in it, serve many trials."""

    def __repr__(self) -> str:
        """What the dashboard calls this process; Ray asks once, when it starts, and many trials may follow the first.

        So it names what mostly stays, the model and how it is loaded. Which trial is running, the process's log says.
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
        """A trial, or a shard of one."""
        self._shard = Shard.named(config["trial"])
        self._trial: str = self._shard.trial if self._shard else config["trial"]

    def step(self) -> dict[str, Any]:
        trial, attempt = self._trial, uuid.uuid4().hex[:12]
        try:
            told = self._answer(self._shard, attempt) if self._shard else self._run(trial, attempt)
            return {"done": True, **told}
        except Superseded:
            return {"done": True, "state": "superseded"}  # whoever has taken the trial says how it ends

    def _run(self, trial: str, attempt: str) -> dict[str, Any]:
        shared = self._shared
        # Into this process's log, a click away from the dashboard's page of actors.
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {trial}: {shared.plans[trial]}", flush=True)
        begun = ray.get(shared.collector.begin.remote(trial, attempt, software(), process()))
        if begun.state is not None:
            return {"state": begun.state}
        shared.collector.began.remote(trial, TrialLabel.of(shared.plans[trial]))  # for displays: nobody waits for it

        def last_words(cause: str) -> None:
            ray.get(shared.collector.dying.remote(trial, attempt, cause), timeout=LAST_WORDS_S)

        with Watchdog(shared.care.timeout_s, last_words) as self._watchdog:
            try:
                result = self._warm_executor().run(shared.plans[trial], self._report, begun, self._answer_store())
            except Uncollected as error:
                raise error.__cause__ or error from None
            except Exception as error:
                last_words(_epitaph(error))
                raise
            ray.get(shared.collector.finish.remote(result, attempt))
        return {"state": result.state, "row": numbers(result.row)}  # for loggers; Tune itself uses none

    def _answer(self, shard: Shard, attempt: str) -> dict[str, Any]:
        """Answer a part of a trial's samples; the trial itself says the rest."""
        shared = self._shared
        begun = ray.get(shared.collector.begin.remote(shard.trial, attempt, software(), process(), shard=True))
        if begun.state is not None:
            return {"state": begun.state}
        plan = shared.plans[shard.trial]
        if shard.part == 0:
            shared.collector.began.remote(shard.trial, TrialLabel.of(plan))  # the first stands for all

        def silent(cause: str) -> None:
            """A shard that hangs says nothing: its trial will hang at the same sample and say it."""

        with Watchdog(shared.care.timeout_s, silent) as watchdog:

            def report(progress: Progress) -> None:
                watchdog.beat(progress)
                if shard.part == 0:
                    told = replace(progress, done=progress.done * shard.of, total=progress.total * shard.of)
                    shared.collector.progress.remote(shard.trial, told)

            try:
                self._warm_executor().run_part(plan, report, begun, self._answer_store(), shard.places)
            except Uncollected as error:
                raise error.__cause__ or error from None
        return {"state": "answered"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: what a trial gave is in the tables."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: a trial that was interrupted runs again."""

    def _warm_executor(self) -> Any:
        if self._executor is None:
            from vlmprof.trial.executor import Executor

            shared = self._shared
            self._executor = Executor(shared.sizer, gpus=shared.gpus, name="tune", policy=shared.care.chunk)
        return self._executor

    def _answer_store(self) -> Any:
        from vlmprof.sweep.actors import RemoteAnswerStore

        return RemoteAnswerStore(self._shared.collector)

    def _report(self, progress: Progress) -> None:
        self._watchdog.beat(progress)
        self._shared.collector.progress.remote(self._trial, progress)  # not awaited: nobody may wait for a display


def _epitaph(error: Exception) -> str:
    """Why a process ends on which nothing more can run; torch's exception by its name, for torch may not be there."""
    said = str(error).splitlines()[0] if str(error) else ""
    what = LOST_DEVICE if type(error).__name__ == "AcceleratorError" else type(error).__name__
    return f"{what}: {said}".rstrip(": ")
