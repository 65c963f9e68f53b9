"""One TensorBoard run a trial, beside the results: ``tensorboard --logdir DIR/tensorboard``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmprof.knobs.knob import label
from vlmprof.plan.point import TrialPlan
from vlmprof.store import schema

FOLDER = "tensorboard"
SECTIONS = {"ms": "latency", "bytes": "memory", "bytes/s": "memory", "J": "energy", "FLOP": "work"}
"""Unit of a column -> the section that TensorBoard shows it in."""
WORK = ("tokens", "crops", "patches", "blocks", "experts")
COMPARED = ("accuracy", "score", "latency_ms_p50", "samples_per_s", "batch_size", "peak_bytes", "energy_j_per_sample")
"""Columns that the table of hyperparameters compares."""


def write_run(folder: Path, plan: TrialPlan, values: Mapping[str, float]) -> Path:
    """Write the run of one trial, in place of an earlier one.

    Args:
        folder: Of results.
        plan: What ran.
        values: The numbers of its row.

    Returns:
        The run's folder; its name ends with the trial's id.
    """
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    run = folder / FOLDER / f"{_slug(str(plan.point))}-{plan.id}"
    for old in run.glob("events.out.tfevents.*"):
        old.unlink()
    tagged = {tag(name, values): value for name, value in values.items()}
    compared = {tag(name, values): values[name] for name in COMPARED if name in values}
    with SummaryWriter(logdir=str(run)) as writer:
        for summary in hparams(_settings(plan), compared):
            writer.file_writer.add_summary(summary)
        for name, value in tagged.items():
            writer.add_scalar(name, value, 0)
    return run


def tag(column: str, columns: Mapping[str, float]) -> str:
    """The name of a column in TensorBoard: a section, then the column."""
    if column.startswith(("knob_", "achieved_")):
        return f"knobs/{column}"
    kind = schema.trials_schema(schema.knobs_of(columns))
    field = kind.field(column) if column in kind.names else None
    unit = ((field.metadata or {}) if field else {}).get(b"unit", b"").decode()
    return f"{'work' if unit in WORK else SECTIONS.get(unit, 'trial')}/{column}"


def _settings(plan: TrialPlan) -> dict[str, Any]:
    plain = {name: value if isinstance(value, (int, float)) else label(value) for name, value in plan.point}
    return {"model": plan.model.label, "task": plan.task.name, "trial": plan.id, **plain}


def _slug(text: str) -> str:
    return re.sub(r"[^\w=.,-]+", "_", text)[:80]
