"""Where else a sweep writes its rows, if a user asks: TensorBoard, MLflow, Weights & Biases.

``LoggerOptions`` says what was asked for and ``require`` what is not installed, before anything runs. MLflow and
Weights & Biases are Ray Tune's own callbacks, wrapped so that a failing logger is reported once and never ends a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from ray.tune import Callback

from vlmprof.errors import UserError
from vlmprof.knobs.knob import label
from vlmprof.monitor.tensorboard import write_run
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Row

# Not the hooks of a step: they come hundreds of times a second, and no logger uses them.
HOOKS = (
    "setup",
    "on_trial_start",
    "on_trial_restore",
    "on_trial_save",
    "on_trial_result",
    "on_trial_complete",
    "on_trial_recover",
    "on_trial_error",
    "on_checkpoint",
    "on_experiment_end",
)
ROW = "row"
"""Key of a result of ``VlmTrainable.step`` under which the numbers of the trial's row travel."""


@final
class LoggedTrial:
    """Tune's trial as a logger should see it: our id, and the knobs as configuration; Tune's own holds the id alone."""

    def __init__(self, trial: Any, plan: TrialPlan) -> None:
        self._trial = trial
        self.trial_id = plan.id
        settings = {name: label(value) for name, value in plan.point}
        self.config = {"trial": plan.id, "model": plan.model.label, "task": plan.task.name, **settings}
        self._name = f"{plan.id} {plan}"

    def __str__(self) -> str:
        return self._name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


@final
class GuardedCallback(Callback):
    """A callback that cannot hurt: what it raises is noted once, and the sweep goes on.

    Its hooks are those of ``HOOKS``, made below; each hands on to the same hook of the callback it guards.
    """

    def __init__(self, inner: Any, plans: Mapping[str, TrialPlan], note: Callable[[str], None]) -> None:
        self._inner, self._plans, self._note = inner, plans, note
        self._known: dict[str, LoggedTrial] = {}
        self._failed: set[str] = set()
        self._raised = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into records that are thrown away, and a display cannot be pickled."""
        return {}

    def hand_on(self, hook: str, *arguments: Any, **info: Any) -> None:
        """Call a hook with our trials and our numbers."""
        if "trial" in info and info["trial"].config["trial"] not in self._plans:
            return  # a shard: its trial tells it all
        if "result" in info and ROW not in info["result"]:
            return  # another process has ended this trial, and its row is told by that one
        if "trial" in info and info["trial"].config["trial"] not in self._plans:
            return  # a shard: the trial itself comes after its shards, and has the row
        try:
            told = {**info, **self._told(info)}
            if hook == "on_trial_complete" and getattr(told.get("trial"), "trial_id", "") in self._failed:
                hook = "on_trial_error"  # to Tune every trial that says how it ended has ended well
            getattr(self._inner, hook)(*arguments, **told)
        except Exception as error:
            if not self._raised:
                what = f"{type(self._inner).__name__}: {hook} raised {type(error).__name__}: {error}"
                self._note(f"{what}; the sweep goes on, and its tables are whole")
            self._raised = True

    def _told(self, info: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if "trials" in info:
            told["trials"] = list(self._known.values())  # those that were spoken of, not the thousands to come
        if "trial" in info:
            told["trial"] = self._named(info["trial"])
        if "result" in info:
            result = info["result"]
            if result.get("state") == "failed":
                self._failed.add(told["trial"].trial_id)
            told["result"] = {"training_iteration": 1, "done": True, **result[ROW]}
        return told

    def _named(self, trial: Any) -> LoggedTrial:
        # One object a trial: loggers keep theirs in dictionaries of trials. Of one that ran again, the later.
        known = self._known.get(trial.trial_id)
        plan = self._plans[trial.config["trial"]]
        if known is None or known.trial_id != plan.id:
            known = self._known[trial.trial_id] = LoggedTrial(trial, plan)
        return known


def _hook(name: str) -> Callable[..., None]:
    def handed_on(self: GuardedCallback, *arguments: Any, **info: Any) -> None:
        self.hand_on(name, *arguments, **info)

    return handed_on


for _name in HOOKS:
    setattr(GuardedCallback, _name, _hook(_name))


@final
class TensorBoard(Callback):
    """A run a trial, written when it has ended."""

    def __init__(self, folder: Path, plans: Mapping[str, TrialPlan]) -> None:
        self._folder, self._plans = folder, plans

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """Write the run."""
        write_run(self._folder, self._plans[trial.trial_id], {k: v for k, v in result.items() if k not in OF_TUNE})


OF_TUNE = ("training_iteration", "done")


def callbacks(
    extras: LoggerOptions, sweep: str, folder: Path, plans: Mapping[str, TrialPlan], note: Callable[[str], None]
) -> list[Callback]:
    """What was asked for, guarded."""
    return [GuardedCallback(one, plans, note) for one in _inner(extras, sweep, folder, plans)]


def _inner(extras: LoggerOptions, sweep: str, folder: Path, plans: Mapping[str, TrialPlan]) -> list[Any]:
    made: list[Any] = []
    if extras.tensorboard:
        made.append(TensorBoard(folder, plans))
    if extras.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        made.append(MLflowLoggerCallback(tracking_uri=extras.mlflow, experiment_name=sweep))
    if extras.wandb:
        from ray.air.integrations.wandb import WandbLoggerCallback

        made.append(WandbLoggerCallback(project=extras.wandb, group=sweep))
    return made


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerOptions:
    """What was asked for; nothing by default."""

    tensorboard: bool = False
    mlflow: str = ""
    """Tracking URI."""
    wandb: str = ""
    """Project."""

    def require(self, *, inline: bool) -> None:
        """Prove that what was asked for can be had.

        Raises:
            UserError: it is not installed, and how to get it; or it needs Ray, and the sweep runs ``inline``.
        """
        if inline and (self.mlflow or self.wandb):
            raise UserError("--mlflow and --wandb are callbacks of Ray Tune; leave --inline out to use them")
        asked = {"tensorboard": self.tensorboard, "mlflow": self.mlflow, "wandb": self.wandb}
        modules = {"tensorboard": "tensorboardX"}
        missing = [name for name, value in asked.items() if value and find_spec(modules.get(name, name)) is None]
        if missing:
            options = " and ".join(f"--{name}" for name in missing)
            raise UserError(f"{options}: not installed; 'pip install \"vlmprof[{','.join(missing)}]\"' brings it")


NONE = LoggerOptions()


def numbers(row: Row) -> Mapping[str, float]:
    """The columns of a row that are finite numbers: what a logger can plot. Yes and no are 1 and 0."""
    values = {name: value for name, value in row.items() if isinstance(value, (bool, int, float))}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
