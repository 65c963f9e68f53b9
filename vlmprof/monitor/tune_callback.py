"""Ray Tune's callback that hands trials to the loggers, in the driver's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from ray.tune import Callback

from vlmprof.monitor.loggers import EndedTrial, Loggers
from vlmprof.plan.point import TrialPlan

ROW = "row"
"""Key of a result of ``VlmTrainable.step`` that holds the numbers of the trial's row."""


@final
class TuneCallback(Callback):
    """Logs the trials of one Tuner. Results of shards are not logged: the trial itself comes after its shards."""

    def __init__(self, loggers: Loggers, plans: Mapping[str, TrialPlan]) -> None:
        """Nothing is logged yet.

        Args:
            loggers: Of the sweep.
            plans: By the id of the trial.
        """
        self._loggers, self._plans = loggers, plans

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into state files that nobody reads, and a thread cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """A step has returned; without a row another process had ended the trial, and that one's result is logged."""
        plan = self._plans.get(trial.config["trial"])
        if plan is not None and ROW in result:
            self._loggers.log(EndedTrial(plan=plan, state=result["state"], values=result[ROW]))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A step has raised, or its process died."""
        plan = self._plans.get(trial.config["trial"])
        if plan is not None:
            self._loggers.log(EndedTrial(plan=plan, state="failed", values={}))
