"""Experiment loggers: TensorBoard, MLflow and Weights & Biases get the row of every trial that ends, if a user asks.

``LoggerOptions`` holds what was asked for. ``Loggers`` is the one way to them: an inline run and Ray Tune's callback
(``tune_callback``) both call ``Loggers.log`` once for each trial. Loggers run on a thread of their own, so that a slow
server does not hold up Tune; one that raises is reported once and never ends a sweep.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self, final

from vlmprof.errors import UserError
from vlmprof.job.storage import mounted
from vlmprof.plan.point import TrialPlan, label
from vlmprof.records import Row


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTrial:
    """What a logger gets: a trial, how it ended, and the numbers of its row in the tables."""

    plan: TrialPlan
    state: str
    """As in the ledger: ``done``, ``oom`` or ``failed``."""
    values: Mapping[str, float]
    """See ``numbers``; empty for a trial whose process died."""

    @property
    def name(self) -> str:
        """The name of its run, for people: the trial's id, then model, task and knobs."""
        return f"{self.plan.id} {self.plan}"

    @property
    def settings(self) -> dict[str, str]:
        """What ran, as parameters of an experiment: the trial's id, its model and task, and every knob."""
        knobs = {name: label(value) for name, value in self.plan.point}
        return {"trial": self.plan.id, "model": self.plan.model.label, "task": self.plan.task.name, **knobs}


class AbstractLogger(ABC):
    """Writes trials to one place outside the results folder."""

    @abstractmethod
    def log(self, trial: EndedTrial) -> None:
        """Write one trial. A trial that ran again comes again. May raise anything; see ``Loggers``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerOptions:
    """Which loggers were asked for; none by default."""

    tensorboard: bool = False
    mlflow: str = ""
    """Tracking URI."""
    wandb: str = ""
    """Project."""

    def require(self) -> None:
        """Check that the packages of the loggers are installed.

        Raises:
            UserError: one is not, and how to install it.
        """
        asked = {"tensorboard": self.tensorboard, "mlflow": self.mlflow, "wandb": self.wandb}
        modules = {"tensorboard": "tensorboardX"}
        missing = [name for name, value in asked.items() if value and find_spec(modules.get(name, name)) is None]
        if missing:
            options = " and ".join(f"--{name}" for name in missing)
            raise UserError(f"{options}: not installed; 'pip install \"vlmprof[{','.join(missing)}]\"' brings it")


NONE = LoggerOptions()


@final
class Loggers:
    """The loggers of one sweep. Use as a context manager: leaving it waits until everything is written."""

    def __init__(self, loggers: Sequence[AbstractLogger], report: Callable[[str], None]) -> None:
        """Nothing is written yet.

        Args:
            loggers: In the order in which they get a trial.
            report: Shows a message to the user; called from the loggers' thread.
        """
        self._loggers, self._report = loggers, report
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loggers")
        self._last: Future[None] | None = None
        self._raised: set[AbstractLogger] = set()

    @classmethod
    def of(cls, options: LoggerOptions, sweep: str, results: str, report: Callable[[str], None]) -> Self:
        """The loggers that were asked for.

        Args:
            options: Which.
            sweep: Its name: MLflow's experiment, the group of Weights & Biases.
            results: The results folder; TensorBoard's runs go into it.
            report: See ``__init__``.

        Raises:
            UserError: TensorBoard is asked for, and the results are in an object store.
        """
        loggers: list[AbstractLogger] = []
        if options.tensorboard:
            from vlmprof.monitor.tensorboard import TensorBoardLogger

            loggers.append(TensorBoardLogger(mounted(results)))
        if options.mlflow:
            from vlmprof.monitor.mlflow import MlflowLogger

            loggers.append(MlflowLogger(options.mlflow, sweep))
        if options.wandb:
            from vlmprof.monitor.wandb import WandbLogger

            loggers.append(WandbLogger(options.wandb, sweep))
        return cls(loggers, report)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def __bool__(self) -> bool:
        """Whether any logger was asked for."""
        return bool(self._loggers)

    def log(self, trial: EndedTrial) -> None:
        """Hand a trial to every logger, in the background; raises nothing that a logger raises."""
        if self._loggers:
            self._last = self._thread.submit(self._write, trial)

    def wait(self) -> None:
        """Return when everything so far is written: before an inline run times its next trial in this process."""
        if self._last is not None:
            self._last.result()

    def _write(self, trial: EndedTrial) -> None:
        for logger in self._loggers:
            try:
                logger.log(trial)
            except Exception as error:
                if logger not in self._raised:
                    cause = f"{type(logger).__name__}: {type(error).__name__}: {error}"
                    self._report(f"{cause}; the sweep continues, and its tables are complete")
                self._raised.add(logger)


def numbers(row: Row) -> Mapping[str, float]:
    """The columns of a row that hold a finite number, which a logger can plot; true is 1 and false is 0."""
    values: dict[str, Any] = {name: value for name, value in row.items() if isinstance(value, (bool, int, float))}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
