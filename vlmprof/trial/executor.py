"""``Executor``: keeps one model loaded and turns plans into results, whatever happens on the way.

The same object serves the cluster and ``--inline``: the cluster is a detail.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import final

import torch

from vlmprof.engine.device_errors import classify, release
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.errors import Mismatch, OutOfMemory, Uncollected
from vlmprof.job.spec import ChunkSpec
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Row
from vlmprof.store.attempts import AttemptStart
from vlmprof.store.collector import TrialResult, now
from vlmprof.trial.columns.identity import unfinished
from vlmprof.trial.columns.latency import canary_ms
from vlmprof.trial.columns.row import finished
from vlmprof.trial.engine_selection import engine_for
from vlmprof.trial.load_key import load_key
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import TrialOutcome
from vlmprof.trial.partial_results import AnswerStore, PartialResults
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial, resolve
from vlmprof.trial.run import run_trial, score_part, time_again
from vlmprof.trial.worst_case_probe import CountingSizer, Sizer

Report = Callable[[Progress], None]
ALONE = AttemptStart(attempt="")
"""For a trial whose beginning nobody noted."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    identity: Hashable
    loaded: LoadedModel


@final
class Executor:
    """Runs plans one after another on one device."""

    def __init__(self, sizer: Sizer, *, gpus: float, name: str, policy: ChunkSpec | None = None) -> None:
        """Nothing is loaded yet.

        Args:
            sizer: Answers batch sizes; shared with others or not.
            gpus: Above 0, the first visible GPU is used; else the CPU.
            name: Recorded in every row: ``tune`` or ``inline``.
            policy: When answers are sent to the collector while a trial runs.
        """
        self._policy = policy or ChunkSpec()
        self._sizer, self._name = sizer, name
        self._device = "cuda" if gpus else "cpu"
        self._loaded: _Loaded | None = None
        self._canaries: dict[Hashable, float] = {}

    def run(
        self, plan: TrialPlan, report: Report, begun: AttemptStart = ALONE, answer_store: AnswerStore | None = None
    ) -> TrialResult:
        """Run one plan. Failure is a result too: an ``oom`` or ``failed`` row with its reason and trace.

        Args:
            plan: What to run.
            report: Told how far it has come.
            begun: What the collector said when the trial began.
            answer_store: Takes answers while the trial runs; None keeps none.

        Raises:
            Uncollected: the collector refuses what the trial gives it.
            torch.AcceleratorError: the device's context is broken; nothing more can run in this process.
        """
        began, sizer = time.monotonic(), CountingSizer(self._sizer)
        told: Row = {"started": now(), "attempts": begun.number, "executor": self._name}
        chunks = PartialResults(begun, answer_store, plan.id, self._policy)

        def about() -> Row:
            return {**told, "seconds": time.monotonic() - began, **sizer.columns()}

        try:
            torch.set_num_threads(plan.threads)
            resolved = resolve(plan)
            loaded = self._bench(resolved, report)
            outcome = run_trial(resolved, loaded, sizer, report, chunks)
            for _ in range(1, plan.timing.processes if outcome.sessions else 1):
                self._loaded = loaded = None  # type: ignore[assignment]  # freed before it is loaded anew
                release()
                loaded = self._bench(resolved, report)
                outcome = time_again(outcome, loaded, report)
            return finished(outcome, loaded.model, {**about(), **self._drift(outcome)})
        except OutOfMemory as error:
            return unfinished(plan, "oom", error, traceback.format_exc(), about())
        except Uncollected:
            raise  # no fault of the trial's: whoever runs it knows what to do
        except Exception as error:  # the one place that catches everything: a failed trial is a row, not a dead sweep
            if classify(error) == "lost":
                raise  # nothing more can run in this process: whoever started it starts another and tries again
            self._loaded = None  # whatever state the failure left the model in, the next trial starts from the files
            failed = unfinished(plan, "failed", error, traceback.format_exc(), about())
            return replace(failed, distrusted=isinstance(error, Mismatch))

    def run_part(
        self, plan: TrialPlan, report: Report, begun: AttemptStart, answer_store: AnswerStore, part: slice
    ) -> None:
        """Answer the samples of one shard of a trial. What goes wrong is left for the trial to meet, and to tell.

        Raises:
            Uncollected: the collector refuses an answer.
            torch.AcceleratorError: the device's context is broken; nothing more can run in this process.
        """
        try:
            torch.set_num_threads(plan.threads)
            resolved = resolve(plan)
            loaded = self._bench(resolved, report)
            chunks = PartialResults(begun, answer_store, plan.id, self._policy)
            score_part(resolved, loaded, self._sizer, report, chunks, part)
        except Uncollected:
            raise
        except Exception as error:  # as of a trial
            if classify(error) == "lost":
                raise
            self._loaded = None

    def _drift(self, outcome: TrialOutcome) -> Row:
        """How the canary has changed since this process first ran it."""
        now_ms = canary_ms(outcome)
        if now_ms is None:
            return {}
        plan = outcome.resolved.plan
        first = self._canaries.setdefault((load_key(plan), plan.task, plan.timing.batch_size), now_ms)
        return {"canary_drift": now_ms / first - 1}

    def _bench(self, resolved: ResolvedTrial, report: Report) -> LoadedModel:
        plan = resolved.plan
        identity = load_key(plan), plan.engine
        if self._loaded is None or self._loaded.identity != identity:
            self._loaded = None  # free the old weights before the new ones arrive
            release()
            report(Progress(phase="load", done=0, total=1))
            model = resolved.family.load(resolved.checkpoint, self._device)
            engine = engine_for(plan, resolved.anatomy, model)
            self._loaded = _Loaded(
                identity=identity, loaded=LoadedModel(model, engine=engine, vision_cache=VisionFeatureCache())
            )
        return self._loaded.loaded
