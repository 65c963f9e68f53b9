"""Weights & Biases: one run for each trial that ended, in a group named like the sweep."""

from __future__ import annotations

from typing import final

from vlmprof.monitor.loggers import AbstractLogger, EndedTrial

SETTINGS = {
    "console": "off",  # the terminal belongs to the sweep's display
    "silent": True,
    "disable_git": True,
    "x_disable_stats": True,  # no samples of this machine's load: the trial has ended, and may have run elsewhere
}


@final
class WandbLogger(AbstractLogger):
    """Writes one run at a time; its id is the trial's, so a trial that ran again replaces its first run."""

    def __init__(self, project: str, group: str) -> None:
        """Nothing is connected yet; the key comes from the environment or from ``wandb login``."""
        self._project, self._group = project, group

    def log(self, trial: EndedTrial) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # without a key, raise; do not ask for one at the terminal
        run = wandb.init(
            project=self._project,
            group=self._group,
            id=trial.plan.id,
            name=trial.name,
            config=trial.settings,
            reinit="create_new",  # a run that the user has opened in this process stays open
            settings=SETTINGS,
        )
        run.log(dict(trial.values))
        run.finish(exit_code=int(trial.state == "failed"))
