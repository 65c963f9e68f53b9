"""``launch`` and ``SweepRun``: trial plans become Ray Tune trials. Tune is a thin scheduler; the ledger is the truth.

``launch`` connects, runs and disconnects; the command line calls it. Which trial a free worker gets is decided by the
``Schedule``. A Tuner runs at most ``CHUNK`` trials, because Tune's own bookkeeping grows with them. ``fit`` can end
early as a whole (Ray's host-memory monitor raises through it) and a trial can die with its process, so the collector is
asked what is finished: whatever is not runs again, from the answers it had given, until its ``RetryBudget`` is spent.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, final

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vlmprof.batch_size.cache import kept_beside
from vlmprof.errors import StoreError, UserError
from vlmprof.job.spec import SweepSpec
from vlmprof.monitor.live_state import Display
from vlmprof.monitor.loggers import NONE, LoggerOptions, callbacks
from vlmprof.plan.point import TrialPlan
from vlmprof.store.attempts import Death
from vlmprof.store.collector import Collector
from vlmprof.store.filesystem import results_folder
from vlmprof.store.ledger import State
from vlmprof.store.submitted_job import SubmittedJob
from vlmprof.sweep.actors import WRITER_WAIT_S, CollectorActor
from vlmprof.sweep.cluster import LOCAL, ON_CPUS, TrialResources, connected, trial_resources
from vlmprof.sweep.cost import CostEstimator
from vlmprof.sweep.expected_work import expected_work
from vlmprof.sweep.retries import FELL, SHORT_OF_MEMORY, RetryBudget, TunerBackoff
from vlmprof.sweep.schedule import Schedule, chunks
from vlmprof.sweep.searcher import ScheduleSearcher
from vlmprof.sweep.shards import split, trials_of
from vlmprof.sweep.sizer_actor import RemoteSizer, configured_folder
from vlmprof.sweep.trainable import FaultPolicy, TrainableContext, VlmTrainable
from vlmprof.trial.columns.identity import lost

CHUNK = 1000
LET_GO_S = 20.0
"""For the collector to end what it is writing."""
REFRESH_S = 0.3
"""Between two looks at the board."""

_DURABLE = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""For actors: no CPU of the trials', back after a death, calls in flight repeated."""


@final
class SweepRun:
    """One run of a sweep on a connected cluster."""

    def __init__(  # noqa: PLR0913 (what one run is made of, each by its name)
        self,
        where: str,
        sweep: str,
        display: Display,
        share: TrialResources,
        *,
        verbose: bool,
        care: FaultPolicy,
        extras: LoggerOptions = NONE,
    ) -> None:
        """Take the folder and start the sweep's actors.

        Raises:
            StoreError: another sweep is writing there, or nothing can be written.
        """
        self._display, self._share, self._verbose, self._care = display, share, verbose, care
        self._place, self._sweep, self._extras = results_folder(where), sweep, extras
        # Taken and let go here first: a refusal inside an actor would reach the user as a death of the actor.
        Collector(where, sweep, wait_s=WRITER_WAIT_S).close()
        # Named for the dashboard; with a mark of this run, because those of a killed driver take a while to go.
        run = uuid.uuid4().hex[:6]
        # Beside the driver: the folder that was just taken is on this machine, and may be on no other.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        writing = {**_DURABLE, "scheduling_strategy": here}
        collector = ray.remote(CollectorActor).options(name=f"{sweep}-collector-{run}", **writing)
        self._collector = collector.remote(self._place.absolute, sweep)
        self._sizer = RemoteSizer(configured_folder())
        # Without a GPU nothing is measured, and no sizer is started.
        self._folder = self._place.folder or Path()  # of TensorBoard's runs, which no object store holds
        self._measurements = kept_beside(self._place, self._sizer) if share.gpus else nullcontext()

    def open_run(
        self, plans: Sequence[TrialPlan], job: dict[str, Any], submitted: SubmittedJob | None = None
    ) -> list[TrialPlan]:
        """Note the run; returns what is left to do."""
        finished = _told(self._collector.open_run.remote([plan.id for plan in plans], job, submitted))
        return [plan for plan in plans if plan.id not in finished]

    def run(self, plans: Sequence[TrialPlan]) -> None:
        """Run plans until each has settled.

        Raises:
            StoreError: nothing can be written to the folder any more.
            UserError: Ray Tune ends again and again without running anything.
        """
        retry_budget, backoff, left = RetryBudget(), TunerBackoff(), list(plans)
        estimator = CostEstimator()
        with self._watching(), self._measurements:
            while left:
                known = {plan.id: plan for plan in left}
                whole, share = [estimator.work(plan) for plan in left], self._share
                in_order = [work for part in chunks(whole, CHUNK) for work in part]
                self._collector.expect.remote(expected_work(in_order, share.concurrent))  # nobody waits for it
                ended = [
                    self._fit([known[trial] for trial in trials_of(works)], Schedule(works))
                    for works in chunks(split(whole, share.shards, share.concurrent), CHUNK)
                ]
                fell = [error for error in ended if error is not None]
                short = any(map(_is_of_memory, fell))
                killer = SHORT_OF_MEMORY if short else FELL if fell else ""
                before, (left, deaths, taught) = left, self._unsettled(left, retry_budget, killer)
                if not left:
                    return
                gained = taught or len(left) < len(before)
                if pause := backoff.pause(gained=gained, died=bool(deaths), short=short):
                    self._display.note(f"going on in {pause:.0f} s" + (", when memory may be free" if short else ""))
                    time.sleep(pause)

    def shut_down(self) -> None:
        """Let the collector finish its line and go, whatever else is wrong."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._collector.close.remote(), timeout=LET_GO_S)

    def close(self) -> dict[str, State]:
        """Let go of the folder, so that the next run need not wait; how each trial of this run ended."""
        settled = ray.get(self._collector.settled.remote())
        ray.get(self._collector.close.remote())
        return dict(settled)

    def _unsettled(
        self, plans: Sequence[TrialPlan], retry_budget: RetryBudget, killer: str
    ) -> tuple[list[TrialPlan], int, bool]:
        """What must run again, how many of them died, and whether one is further than it was.

        A trial that has spent its lives is told as failed.

        Args:
            plans: What was to run.
            retry_budget: How many deaths each has left.
            killer: What is known to have ended them all, whatever they were doing.
        """
        if why := _told(self._collector.broken.remote()):
            raise StoreError(why)
        settled = _told(self._collector.settled.remote())
        left = {plan.id: plan for plan in plans if plan.id not in settled}
        deaths: dict[str, Death] = _told(self._collector.abandon.remote(list(left), killer))
        taught = any([retry_budget.teaches(trial, death) for trial, death in deaths.items()])
        for trial, death in deaths.items():
            if reason := retry_budget.spend(trial, death):
                _told(self._collector.finish.remote(lost(left.pop(trial), reason)))
            else:
                why = f" ({death.reason})" if death.reason else ""
                self._display.note(f"{left[trial]}: its process died{why}; trying again")
        return list(left.values()), len(deaths), taught

    def _fit(self, plans: Sequence[TrialPlan], schedule: Schedule) -> Exception | None:
        """One Tuner; returns what ended it before its time, if anything did."""
        share = self._share
        shared = TrainableContext(
            plans={plan.id: plan for plan in plans},
            collector=self._collector,
            sizer=self._sizer,
            gpus=share.gpus,
            care=self._care,
        )
        scratch = tempfile.mkdtemp(prefix="vlmprof-tune-")
        trainable = tune.with_resources(
            tune.with_parameters(VlmTrainable, shared=shared), tune.PlacementGroupFactory(**share.placement)
        )
        trainable.__qualname__ = f"vlmprof {self._sweep}"  # what Ray's dashboard calls the class
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=ScheduleSearcher(schedule),
                num_samples=schedule.size,
                reuse_actors=True,
                max_concurrent_trials=share.concurrent,
                trial_name_creator=lambda trial: f"vlmprof-{trial.config['trial']}",
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=1 if self._verbose else 0,
                callbacks=callbacks(self._extras, self._sweep, self._folder, shared.plans, self._display.note),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # the whole fit can fall; what it settled is kept, the rest is tried again
            self._display.note(f"Ray Tune ended early: {_in_short(error)}")
            return error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return None

    @contextmanager
    def _watching(self) -> Iterator[None]:
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event) -> None:
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


def _in_short(error: Exception) -> str:
    """Its kind and the beginning of what it says."""
    said = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {said[:200]}"


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether Ray's memory monitor is at the root of it: Tune wraps what it raises."""
    while error is not None and not isinstance(error, ray.exceptions.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _told(reference: Any) -> Any:
    """What an actor answers; an error that the user can fix reaches him as it was raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.ActorDiedError as error:  # it is started again as often as it dies; not so if it cannot start
        why = str(error).strip().splitlines()[-1]
        raise StoreError(f"the collector is gone and cannot start again: {why}; what was finished is kept") from None


def launch(  # noqa: PLR0913 (what is run, and by name how)
    spec: SweepSpec,
    plans: Sequence[TrialPlan],
    address: str,
    display: Display,
    *,
    verbose: bool,
    extras: LoggerOptions = NONE,
    submitted: SubmittedJob | None = None,
) -> dict[str, State]:
    """Run what is missing of a job; how each trial of this run ended.

    Raises:
        UserError: no cluster at the address, or none of its nodes can hold a trial.
        StoreError: another sweep is writing to the folder, or nothing can be written there.
    """
    with connected(address, verbose=verbose) as dashboard:
        from vlmprof.sweep.trainable import FaultPolicy

        if dashboard:
            display.note(f"dashboard: http://{dashboard}")
        care = FaultPolicy(chunk=spec.chunk, timeout_s=spec.timeout_s)
        share = trial_resources(spec.resources, display.note)
        if spec.resources.gpus == "auto" and not share.gpus and address != LOCAL:
            display.note(ON_CPUS)
        session = SweepRun(spec.where, spec.name, display, share, verbose=verbose, care=care, extras=extras)
        try:
            session.run(session.open_run(plans, spec.model_dump(mode="json"), submitted))
        except BaseException:
            session.shut_down()
            raise
        return session.close()
