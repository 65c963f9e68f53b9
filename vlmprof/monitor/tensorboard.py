"""TensorBoard: one run for each trial, in the results folder; see it with ``tensorboard --logdir DIR/tensorboard``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from vlmprof.monitor.loggers import AbstractLogger, EndedTrial
from vlmprof.store import schema

FOLDER = "tensorboard"
SECTIONS = {"ms": "latency", "bytes": "memory", "bytes/s": "memory", "J": "energy", "FLOP": "work"}
"""Unit of a column -> the section that TensorBoard shows it in."""
WORK = ("tokens", "crops", "patches", "blocks", "experts")
COMPARED = ("accuracy", "score", "latency_ms_p50", "samples_per_s", "batch_size", "peak_bytes", "energy_j_per_sample")
"""Columns in TensorBoard's table of hyperparameters."""


@final
class TensorBoardLogger(AbstractLogger):
    """Writes event files; a trial that ran again replaces its first run."""

    def __init__(self, results: Path) -> None:
        """Nothing is written yet.

        Args:
            results: The results folder.
        """
        self._folder = results / FOLDER

    def log(self, trial: EndedTrial) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        if not trial.values:
            return  # its process died: there is nothing to plot, and an earlier run stays
        run = self._folder / f"{_slug(str(trial.plan.point))}-{trial.plan.id}"
        for old in run.glob("events.out.tfevents.*"):
            old.unlink()
        tags = {name: _tag(name, trial.values) for name in trial.values}
        compared = {tags[name]: trial.values[name] for name in COMPARED if name in tags}
        with SummaryWriter(logdir=str(run)) as writer:
            for summary in hparams(_hyperparameters(trial), compared):
                writer.file_writer.add_summary(summary)
            for name, value in trial.values.items():
                writer.add_scalar(tags[name], value, 0)


def _tag(column: str, columns: Mapping[str, float]) -> str:
    """The name of a column in TensorBoard: a section, then the column."""
    if column.startswith(("knob_", "achieved_")):
        return f"knobs/{column}"
    kind = schema.schema_of_row(columns)
    field = kind.field(column) if column in kind.names else None
    unit = ((field.metadata or {}) if field else {}).get(b"unit", b"").decode()
    return f"{'work' if unit in WORK else SECTIONS.get(unit, 'trial')}/{column}"


def _hyperparameters(trial: EndedTrial) -> dict[str, Any]:
    """The settings, with numbers as numbers so that TensorBoard can plot against them."""
    numeric = {name: value for name, value in trial.plan.point if isinstance(value, (int, float))}
    return {**trial.settings, **numeric}


def _slug(text: str) -> str:
    return re.sub(r"[^\w=.,-]+", "_", text)[:80]
