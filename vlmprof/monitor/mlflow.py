"""MLflow: one run for each trial that ended, in an experiment named like the sweep."""

from __future__ import annotations

import time
from typing import final

from vlmprof.monitor.loggers import AbstractLogger, EndedTrial


@final
class MlflowLogger(AbstractLogger):
    """Writes through MLflow's client, which keeps no global state: a user's own active run is not touched."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        """Nothing is connected yet.

        Args:
            tracking_uri: A server, a database or a folder, as MLflow takes it.
            experiment: Made when it does not exist.
        """
        self._tracking_uri, self._experiment = tracking_uri, experiment

    def log(self, trial: EndedTrial) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        client = MlflowClient(tracking_uri=self._tracking_uri)
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self._experiment)
        ended_ms = time.time_ns() // 1_000_000
        started_ms = ended_ms - round(1000 * trial.values.get("seconds", 0.0))
        run_id = client.create_run(experiment_id, start_time=started_ms, run_name=trial.name).info.run_id
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, ended_ms, 0) for name, value in trial.values.items()],
            params=[Param(name, value) for name, value in trial.settings.items()],
        )
        client.set_terminated(run_id, "FAILED" if trial.state == "failed" else "FINISHED", ended_ms)
