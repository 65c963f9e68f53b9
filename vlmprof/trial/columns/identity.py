"""Identity columns, and the rows of trials that did not run to their end. Needs no model and no torch."""

from __future__ import annotations

from vlmprof import registry
from vlmprof.plan.point import TrialPlan, label
from vlmprof.records import Row
from vlmprof.store.collector import TrialResult
from vlmprof.store.ledger import State
from vlmprof.store.schema import SCHEMA_VERSION
from vlmprof.trial.load_key import load_arguments


def unfinished(plan: TrialPlan, state: State, error: BaseException, trace: str, run_columns: Row) -> TrialResult:
    """The row of a trial that did not run to its end: the reason, and no objectives."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    reason = f"{type(error).__name__}: {first}".rstrip(": ")
    row = {**identity(plan), **run_columns, "state": state, "error": reason}
    return TrialResult(trial=plan.id, knobs=tuple(dict(plan.point)), state=state, row=row, trace=trace)


def lost(plan: TrialPlan, reason: str) -> TrialResult:
    """The row of a trial whose process has died as often as is allowed."""
    row = {**identity(plan), "state": "failed", "error": reason}
    return TrialResult(trial=plan.id, knobs=tuple(dict(plan.point)), state="failed", row=row)


def identity(plan: TrialPlan) -> Row:
    """The columns that follow from the plan alone."""
    point = dict(plan.point)
    return {
        "trial": plan.id,
        "model": plan.model.label,
        "family": plan.model.family,
        "checkpoint": plan.model.checkpoint,
        "revision": plan.model.revision,
        "model_fingerprint": plan.model_fingerprint,
        "dtype": load_arguments(plan)["dtype"],
        "trust_remote_code": plan.model.trust_remote_code,
        "task": plan.task.name,
        "split": plan.task.split,
        "task_revision": plan.task_revision,
        "seed": plan.task.seed,
        "point": str(plan.point),
        **{f"knob_{name}": registry.load("knobs", name).axis(value) for name, value in point.items()},
        **{f"requested_{name}": label(value) for name, value in point.items()},
        "schema_version": SCHEMA_VERSION,
    }
