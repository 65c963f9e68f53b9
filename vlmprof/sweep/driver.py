"""``launch`` and ``SweepRun``: run trial plans as Ray Tune trials. Only the ledger decides which trials are finished.

``launch`` connects, runs and disconnects; the command line calls it. The ``Schedule`` decides which trial a free worker
gets. A Tuner runs at most ``CHUNK`` trials, because Tune's own bookkeeping grows with their number. ``fit`` can end
early as a whole (an error of Ray's host-memory monitor propagates through it) and a trial's process can crash, so the
driver asks the collector which trials are finished. The others run again, from the answers that they had sent, until
their ``RetryBudget`` is used up.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, final

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vlmprof.batch_size.cache import kept_with_results
from vlmprof.errors import StoreError, UserError
from vlmprof.job.spec import SweepSpec
from vlmprof.monitor.live_state import Display
from vlmprof.monitor.loggers import NONE, LoggerOptions, Loggers
from vlmprof.monitor.tune_callback import TuneCallback
from vlmprof.plan.point import TrialPlan
from vlmprof.store.attempts import Death
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import results_folder
from vlmprof.store.ledger import State
from vlmprof.store.submitted_job import SubmittedJob
from vlmprof.submit.origin import login
from vlmprof.sweep.actors import WRITER_WAIT_S, CollectorActor
from vlmprof.sweep.cluster import AUTH_MODE, LOCAL, ON_CPUS, TrialResources, connected, trial_resources
from vlmprof.sweep.cost import CostEstimator
from vlmprof.sweep.expected_work import expected_work
from vlmprof.sweep.retries import SHORT_OF_MEMORY, TUNER_ENDED, RetryBudget, TunerBackoff
from vlmprof.sweep.schedule import Schedule, chunks
from vlmprof.sweep.searcher import ScheduleSearcher
from vlmprof.sweep.shards import split, trials_of
from vlmprof.sweep.sizer_actor import RemoteSizer, configured_folder
from vlmprof.sweep.trainable import FaultPolicy, TrainableContext, VlmTrainable
from vlmprof.trial.columns.identity import lost

CHUNK = 1000
CLOSE_TIMEOUT_S = 20.0
"""For the collector to finish what it is writing."""
REFRESH_S = 0.3
"""Between two updates of the display."""

_DURABLE = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""For actors: reserve no CPU, restart after a crash, repeat the calls that were in flight."""


@final
class SweepRun:
    """One run of a sweep on a connected cluster."""

    def __init__(  # noqa: PLR0913 (all parts of a run, by name)
        self,
        where: str,
        sweep: str,
        display: Display,
        resources: TrialResources,
        *,
        verbose: bool,
        faults: FaultPolicy,
        extras: LoggerOptions = NONE,
    ) -> None:
        """Acquire the folder and start the sweep's actors.

        Raises:
            StoreError: another sweep is writing there, or nothing can be written.
        """
        self._display, self._resources, self._verbose, self._faults = display, resources, verbose, faults
        self._results, self._sweep = results_folder(where), sweep
        self._loggers = Loggers.of(extras, sweep, where, display.note)
        # Acquired and released here first: a refusal inside the actor would reach the user as an actor that died.
        Collector(where, sweep, wait_s=WRITER_WAIT_S).close()
        # The name is for the dashboard; its suffix is unique, because the actors of a killed driver stay for a while.
        suffix = uuid.uuid4().hex[:6]
        # On the driver's node: the folder that was just acquired is on this machine, and perhaps on no other.
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {**_DURABLE, "scheduling_strategy": this_node}
        actor = ray.remote(CollectorActor).options(name=f"{sweep}-collector-{suffix}", **options)
        self._collector = actor.remote(self._results.absolute, sweep)
        self._sizer = RemoteSizer(configured_folder())
        # Without a GPU no batch sizes are measured, and no sizer is started.
        self._measurements = kept_with_results(self._results, self._sizer) if resources.gpus else nullcontext()

    def open_run(
        self, plans: Sequence[TrialPlan], job: dict[str, Any], submitted: SubmittedJob | None = None
    ) -> list[TrialPlan]:
        """Record the run; returns the plans that are not finished."""
        finished = _get(self._collector.open_run.remote([plan.id for plan in plans], job, submitted))
        return [plan for plan in plans if plan.id not in finished]

    def run(self, plans: Sequence[TrialPlan]) -> None:
        """Run plans until each has ended.

        Raises:
            StoreError: nothing can be written to the folder any more.
            UserError: Ray Tune ends again and again without running anything.
        """
        retry_budget, backoff, remaining = RetryBudget(), TunerBackoff(), list(plans)
        estimator = CostEstimator()
        with self._updating_display(), self._measurements, self._loggers:
            while remaining:
                by_id = {plan.id: plan for plan in remaining}
                estimates, resources = [estimator.estimate(plan) for plan in remaining], self._resources
                in_order = [work for part in chunks(estimates, CHUNK) for work in part]
                self._collector.expect.remote(expected_work(in_order, resources.concurrent))  # nothing waits for it
                outcomes = [
                    self._fit([by_id[trial] for trial in trials_of(scheduled)], Schedule(scheduled))
                    for scheduled in chunks(split(estimates, resources.shards, resources.concurrent), CHUNK)
                ]
                errors = [error for error in outcomes if error is not None]
                low_memory = any(map(_is_out_of_memory, errors))
                killer = SHORT_OF_MEMORY if low_memory else TUNER_ENDED if errors else ""
                before, (remaining, crashes, progressed) = remaining, self._unsettled(remaining, retry_budget, killer)
                if not remaining:
                    return
                progressed = progressed or len(remaining) < len(before)
                if pause := backoff.pause(progressed=progressed, crashed=bool(crashes), low_memory=low_memory):
                    reason = ", when memory may be free" if low_memory else ""
                    self._display.note(f"going on in {pause:.0f} s{reason}")
                    time.sleep(pause)

    def shut_down(self) -> None:
        """Let the collector finish its line and release the folder; errors of Ray are ignored."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._collector.close.remote(), timeout=CLOSE_TIMEOUT_S)

    def close(self) -> dict[str, State]:
        """Release the folder, so that the next run need not wait; returns how each trial of this run ended."""
        settled = ray.get(self._collector.settled.remote())
        ray.get(self._collector.close.remote())
        return dict(settled)

    def _unsettled(
        self, plans: Sequence[TrialPlan], retry_budget: RetryBudget, killer: str
    ) -> tuple[list[TrialPlan], int, bool]:
        """The plans that must run again, how many of them crashed, and whether one of those made progress.

        A trial that has used up its retries is written as failed.

        Args:
            plans: The plans that were run.
            retry_budget: How many crashes each has left.
            killer: What is known to have ended all of them from outside; '' if nothing did.
        """
        if why := _get(self._collector.broken.remote()):
            raise StoreError(why)
        settled = _get(self._collector.settled.remote())
        remaining = {plan.id: plan for plan in plans if plan.id not in settled}
        deaths: dict[str, Death] = _get(self._collector.abandon.remote(list(remaining), killer))
        progressed = any([retry_budget.made_progress(trial, death) for trial, death in deaths.items()])
        for trial, death in deaths.items():
            if reason := retry_budget.spend(trial, death):
                _get(self._collector.finish.remote(lost(remaining.pop(trial), reason)))
            else:
                why = f" ({death.reason})" if death.reason else ""
                self._display.note(f"{remaining[trial]}: its process died{why}; trying again")
        return list(remaining.values()), len(deaths), progressed

    def _fit(self, plans: Sequence[TrialPlan], schedule: Schedule) -> Exception | None:
        """Run one Tuner; returns the error that ended it early, if any."""
        resources = self._resources
        shared = TrainableContext(
            plans={plan.id: plan for plan in plans},
            collector=self._collector,
            sizer=self._sizer,
            gpus=resources.gpus,
            faults=self._faults,
        )
        scratch = tempfile.mkdtemp(prefix="vlmprof-tune-")
        trainable = tune.with_resources(
            tune.with_parameters(VlmTrainable, shared=shared), tune.PlacementGroupFactory(**resources.placement)
        )
        trainable.__qualname__ = f"vlmprof {self._sweep}"  # the class name on Ray's dashboard
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=ScheduleSearcher(schedule),
                num_samples=schedule.size,
                reuse_actors=True,
                max_concurrent_trials=resources.concurrent,
                trial_name_creator=lambda trial: f"vlmprof-{trial.config['trial']}",
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=1 if self._verbose else 0,
                callbacks=[TuneCallback(self._loggers, shared.plans)] if self._loggers else [],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # fit can fail as a whole; finished trials are kept, the others run again
            self._display.note(f"Ray Tune ended early: {_summary(error)}")
            return error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return None

    @contextmanager
    def _updating_display(self) -> Iterator[None]:
        over = threading.Event()
        updater = threading.Thread(target=self._update_display, args=(over,), daemon=True)
        updater.start()
        try:
            yield
        finally:
            over.set()
            updater.join()

    def _update_display(self, over: threading.Event) -> None:
        while True:
            last = over.wait(REFRESH_S)
            try:
                view = ray.get(self._collector.view.remote(), timeout=10)
            except ray.exceptions.RayError:  # the collector is restarting, or the cluster is gone: nothing to show
                if last:
                    return
                continue
            self._display.update(view)
            if last:
                return


def _summary(error: Exception) -> str:
    """The error's type and the beginning of its message."""
    message = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {message[:200]}"


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of Ray's memory monitor is among its causes: Tune wraps it."""
    while error is not None and not isinstance(error, ray.exceptions.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _get(reference: Any) -> Any:
    """The result of an actor's call; a ``UserError`` that it raised is raised again unchanged."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.ActorDiedError as error:  # Ray restarts it after every crash, unless its constructor fails
        why = str(error).strip().splitlines()[-1]
        raise StoreError(f"the collector is gone and cannot start again: {why}; what was finished is kept") from None


def launch(  # noqa: PLR0913 (what to run, and options by name)
    spec: SweepSpec,
    plans: Sequence[TrialPlan],
    address: str,
    display: Display,
    *,
    verbose: bool,
    extras: LoggerOptions = NONE,
    submitted: SubmittedJob | None = None,
) -> dict[str, State]:
    """Run the unfinished trials of a job; returns how each trial of this run ended.

    Raises:
        UserError: no cluster at the address, or none of its nodes can hold a trial.
        StoreError: another sweep is writing to the folder, or nothing can be written there.
    """
    with connected(address, verbose=verbose) as dashboard:
        from vlmprof.sweep.trainable import FaultPolicy

        if dashboard:
            display.note(login(dashboard, asks_for_token=os.environ.get(AUTH_MODE) == "token"))
        faults = FaultPolicy(chunk=spec.chunk, timeout_s=spec.timeout_s)
        resources = trial_resources(spec.resources, display.note)
        if spec.resources.gpus == "auto" and not resources.gpus and address != LOCAL:
            display.note(ON_CPUS)
        run = SweepRun(spec.where, spec.name, display, resources, verbose=verbose, faults=faults, extras=extras)
        try:
            run.run(run.open_run(plans, spec.model_dump(mode="json"), submitted))
        except BaseException:
            run.shut_down()
            raise
        return run.close()
