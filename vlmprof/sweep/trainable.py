"""Tune's life cycle around one ``Executor``.

``setup`` does nothing that takes time and the model is loaded inside ``step``: with a slow ``setup`` a freed warm actor
takes the trial of an actor that is still starting, that one is killed, and the second GPU never works. For the same
reason this module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import ray
from ray import tune

from vlmprof.plan.point import TrialPlan
from vlmprof.trial.progress import Progress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every trial of a Tuner is given."""

    plans: Mapping[str, TrialPlan]
    collector: Any
    sizer: Any
    gpus: float


@final
class VlmTrainable(tune.Trainable):
    """One trial a ``step``; the process, and the model in it, serve many trials."""

    def setup(self, config: dict[str, Any], shared: Shared) -> None:
        self._trial: str = config["trial"]
        self._shared = shared
        self._executor: Any = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = new_config["trial"]
        return True

    def step(self) -> dict[str, Any]:
        shared, trial = self._shared, self._trial
        ray.get(shared.collector.begin.remote(trial))
        result = self._warm_executor().run(shared.plans[trial], self._report)
        ray.get(shared.collector.finish.remote(result))
        return {"done": True, "state": result.state}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: what a trial gave is in the tables."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: a trial that was interrupted runs again."""

    def _warm_executor(self) -> Any:
        if self._executor is None:
            from vlmprof.sweep.actors import RemoteSizer
            from vlmprof.trial.execute import Executor

            shared = self._shared
            self._executor = Executor(RemoteSizer(shared.sizer), gpus=shared.gpus, name="tune")
        return self._executor

    def _report(self, progress: Progress) -> None:
        self._shared.collector.progress.remote(self._trial, progress)  # not awaited: nobody may wait for a display
