"""``Executor``: keeps one model loaded and turns trial plans into results; a failure becomes a row.

The Ray trainable and ``--inline`` use the same object.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import final

import torch

from vlmprof.engine.device_errors import classify, release
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.errors import Mismatch, NotFinite, OutOfMemory, Uncollected
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
from vlmprof.trial.preprocess_selection import preprocess_for
from vlmprof.trial.progress import PhaseSeconds, Progress
from vlmprof.trial.resolve import ResolvedTrial, resolve
from vlmprof.trial.run import run_trial, score_part, time_again
from vlmprof.trial.worst_case_probe import CountingSizer, Sizer

Report = Callable[[Progress], None]
UNRECORDED = AttemptStart(attempt="")
"""For a trial that runs without a collector."""


@final
class Executor:
    """Runs plans one after another on one device."""

    def __init__(self, sizer: Sizer, *, gpus: float, name: str, policy: ChunkSpec | None = None) -> None:
        """Nothing is loaded yet.

        Args:
            sizer: Answers requests for batch sizes; may be shared.
            gpus: Above 0, the first visible GPU is used; else the CPU.
            name: Recorded in every row: ``tune`` or ``inline``.
            policy: When answers are sent to the collector while a trial runs.
        """
        self._policy = policy or ChunkSpec()
        self._sizer, self._name = sizer, name
        self._device = "cuda" if gpus else "cpu"
        self._loaded: LoadedModel | None = None
        self._loaded_as: Hashable = None
        """What the loaded model was loaded for: its load key, its engine, and where it cuts pictures."""
        self._first_canary_ms: dict[Hashable, float] = {}

    def run(
        self,
        plan: TrialPlan,
        report: Report,
        attempt: AttemptStart = UNRECORDED,
        answer_store: AnswerStore | None = None,
    ) -> TrialResult:
        """Run one plan. A failure is a result too: an ``oom`` or ``failed`` row with its reason and trace.

        Args:
            plan: What to run.
            report: Called with the progress.
            attempt: The collector's reply when the trial began.
            answer_store: Takes answers while the trial runs; None keeps none.

        Raises:
            Uncollected: the collector refuses what the trial gives it.
            torch.AcceleratorError: the device's context is broken; nothing more can run in this process.
        """
        began, sizer = time.monotonic(), CountingSizer(self._sizer)
        report = phases = PhaseSeconds(report)
        start_columns: Row = {"started": now(), "attempts": attempt.number, "executor": self._name}
        partial_results = PartialResults(attempt, answer_store, plan.id, self._policy)

        def run_columns() -> Row:
            return {**start_columns, "seconds": time.monotonic() - began, **phases.columns(), **sizer.columns()}

        try:
            torch.set_num_threads(plan.threads)
            resolved = resolve(plan)
            loaded = self._load(resolved, report)
            outcome = run_trial(resolved, loaded, sizer, report, partial_results)
            for _ in range(1, plan.timing.processes if outcome.sessions else 1):
                self._loaded = loaded = None  # type: ignore[assignment]  # freed before it is loaded again
                release()
                loaded = self._load(resolved, report)
                outcome = time_again(outcome, loaded, report)
            return finished(outcome, loaded.model, {**run_columns(), **self._drift(outcome)})
        except OutOfMemory as error:
            return unfinished(plan, "oom", error, traceback.format_exc(), run_columns())
        except Uncollected:
            raise  # not a failure of the trial; the caller decides what follows
        except Exception as error:  # the one place that catches everything: a failed trial is a row, not a dead sweep
            if classify(error) == "lost":
                raise  # nothing more can run in this process: the caller starts another one and tries again
            self._loaded = None  # the failure may have left the model in any state: the next trial loads it again
            failed = unfinished(plan, "failed", error, traceback.format_exc(), run_columns())
            return replace(failed, distrusted=isinstance(error, Mismatch | NotFinite))

    def run_part(
        self, plan: TrialPlan, report: Report, attempt: AttemptStart, answer_store: AnswerStore, part: slice
    ) -> None:
        """Answer the samples of one shard of a trial. Other failures are left for the trial to meet and to report.

        Raises:
            Uncollected: the collector refuses an answer.
            torch.AcceleratorError: the device's context is broken; nothing more can run in this process.
        """
        try:
            torch.set_num_threads(plan.threads)
            resolved = resolve(plan)
            loaded = self._load(resolved, report)
            partial_results = PartialResults(attempt, answer_store, plan.id, self._policy)
            score_part(resolved, loaded, self._sizer, report, partial_results, part)
        except Uncollected:
            raise
        except Exception as error:  # as in run()
            if classify(error) == "lost":
                raise
            self._loaded = None

    def _drift(self, outcome: TrialOutcome) -> Row:
        """How the canary's time has changed since this process first ran it."""
        now_ms = canary_ms(outcome)
        if now_ms is None:
            return {}
        plan = outcome.resolved.plan
        first_ms = self._first_canary_ms.setdefault((load_key(plan), plan.task, plan.timing.batch_size), now_ms)
        return {"canary_drift": now_ms / first_ms - 1}

    def _load(self, resolved: ResolvedTrial, report: Report) -> LoadedModel:
        """The trial's model: the one that is loaded already, or a new one in its place."""
        plan = resolved.plan
        load_as = load_key(plan), plan.engine, plan.preprocess
        if self._loaded is None or self._loaded_as != load_as:
            self._loaded = None  # free the old weights before the new ones arrive
            release()
            report(Progress(phase="load", done=0, total=1))
            model = resolved.family.load(resolved.checkpoint, self._device)
            model.preprocess = preprocess_for(plan, resolved.anatomy, model.device)
            engine = engine_for(plan, resolved.anatomy, model)
            self._loaded, self._loaded_as = (
                LoadedModel(model, engine=engine, vision_cache=VisionFeatureCache()),
                load_as,
            )
        return self._loaded
