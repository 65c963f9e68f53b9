"""What loggers are told is the row of the tables, and none of them can end a sweep."""

import struct
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.jobs import small_job
from tests.sweep.sweeps import Silent
from vlmprof.errors import UserError
from vlmprof.monitor import loggers
from vlmprof.monitor.loggers import HOOKS, GuardedCallback, LoggerOptions, numbers
from vlmprof.monitor.tensorboard import write_run
from vlmprof.store import tables
from vlmprof.sweep.driver import launch


def scalars(run: Path) -> dict[str, float]:
    """Tag -> value of a run, read from the file's records without TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event

    [file] = run.glob("events.out.tfevents.*")
    data, found, at = file.read_bytes(), {}, 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found |= {value.tag: value.simple_value for value in event.summary.value}
        at += 12 + length + 4
    return {tag: value for tag, value in found.items() if not tag.startswith("_hparams_")}


class Raising:
    """A callback that raises in every hook, and remembers which were called."""

    def __init__(self):
        self.called = []

    def __getattr__(self, hook):
        if hook not in HOOKS:
            raise AttributeError(hook)

        def raising(*arguments, **info):
            self.called.append(hook)
            raise RuntimeError(f"no {hook} today")

        return raising


class Remembering:
    """What a logger is told."""

    def __init__(self):
        self.results, self.ends, self.names = {}, [], {}

    def setup(self, **info):
        return

    def on_trial_start(self, trial, **info):
        self.names[trial.trial_id] = str(trial), trial.config

    def on_trial_result(self, trial, result, **info):
        self.results[trial.trial_id] = result

    def on_trial_complete(self, trial, **info):
        self.ends.append((trial.trial_id, "complete"))

    def on_trial_error(self, trial, **info):
        self.ends.append((trial.trial_id, "error"))

    def on_experiment_end(self, **info):
        return


@pytest.mark.ray
def test_loggers_get_the_row_and_one_that_raises_everywhere_ends_nothing(
    tmp_path, tiny_checkpoint, cluster, monkeypatch
):
    raising, told = Raising(), Remembering()
    real = loggers._inner
    monkeypatch.setattr(loggers, "_inner", lambda *about: [raising, *real(*about), told])
    knobs = {"trouble": ["none", "raise"]}
    job, display = small_job(tmp_path, tiny_checkpoint, knobs=knobs, resources={"cpus": 2}), Silent()
    states = launch(job.spec, job.plans, cluster, display, verbose=False, extras=LoggerOptions(tensorboard=True))
    assert sorted(states.values()) == ["done", "failed"]
    assert {"setup", "on_trial_start", "on_trial_result", "on_experiment_end"} <= set(raising.called)
    assert [note for note in display.notes if "Raising" in note] == [
        "Raising: setup raised RuntimeError: no setup today; the sweep goes on, and its tables are whole"
    ]
    for row in tables.read(job.spec.folder, "trials").to_dict("records"):
        trial = row["trial"]
        known = numbers({name: value for name, value in row.items() if not pd.isna(value)})
        result = {name: value for name, value in told.results[trial].items() if name not in loggers.OF_TUNE}
        assert result == pytest.approx(known), "what is logged is the row of the tables"
        [run] = (job.spec.folder / "tensorboard").glob(f"*-{trial}")
        logged = {tag.partition("/")[2]: value for tag, value in scalars(run).items()}
        assert logged == pytest.approx(known, rel=1e-6)
        assert (trial, "complete" if row["state"] == "done" else "error") in told.ends
        name, config = told.names[trial]
        assert name.startswith(trial) and config["trouble"] == row["requested_trouble"]


@pytest.mark.parametrize("hook", HOOKS)
def test_no_hook_lets_an_error_out_and_it_is_noted_once(hook):
    raising, notes = Raising(), []
    guard = GuardedCallback(raising, {}, notes.append)
    for _ in range(3):
        getattr(guard, hook)()
    assert raising.called == [hook] * 3
    assert len(notes) == 1 and f"no {hook} today" in notes[0]


def test_a_shard_is_nothing_to_log():
    told, notes = Remembering(), []
    guard = GuardedCallback(told, {}, notes.append)
    shard = SimpleNamespace(trial_id="tune_1", config={"trial": "abc:1/2"})
    guard.on_trial_start(iteration=1, trials=[shard], trial=shard)
    guard.on_trial_complete(iteration=1, trials=[shard], trial=shard)
    assert told.names == {} and told.ends == [] and notes == []


def test_a_run_of_a_trial_that_runs_again_replaces_the_first(tmp_path, tiny_checkpoint):
    [plan] = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [4]}).plans
    first = write_run(tmp_path, plan, {"accuracy": 0.25, "latency_ms_p50": 8.0, "batch_size": 16.0, "seconds": 3.0})
    again = write_run(tmp_path, plan, {"accuracy": 0.5, "knob_max_crops": 4.0, "peak_bytes": 1024.0})
    assert first == again and first.name == f"max_crops=4-{plan.id}"
    assert scalars(again) == {"trial/accuracy": 0.5, "knobs/knob_max_crops": 4.0, "memory/peak_bytes": 1024.0}


def test_only_finite_numbers_are_logged():
    row = {"a": 1, "b": float("nan"), "c": float("inf"), "d": "x", "e": None, "f": True, "g": 0.5}
    assert numbers(row) == {"a": 1.0, "f": 1.0, "g": 0.5}


def test_what_is_missing_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr("vlmprof.monitor.loggers.find_spec", lambda name: None)
    how = r"--mlflow and --wandb: not installed; 'pip install \"vlmprof\[mlflow,wandb\]\"'"
    with pytest.raises(UserError, match=how):
        LoggerOptions(mlflow="file:x", wandb="y").require(inline=False)
    with pytest.raises(UserError, match="--tensorboard: not installed"):
        LoggerOptions(tensorboard=True).require(inline=True)
    with pytest.raises(UserError, match="leave --inline out"):
        LoggerOptions(wandb="y").require(inline=True)
    LoggerOptions().require(inline=True)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_itself_keeps_the_numbers_under_the_trials_id(tmp_path, tiny_checkpoint, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database needs more than its client
    job = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [1, 4], "moe_top_k": [4]})
    uri, notes = f"file:{tmp_path / 'mlruns'}", []
    plans = {plan.id: plan for plan in job.plans}
    [guard] = loggers.callbacks(LoggerOptions(mlflow=uri), "small", tmp_path, plans, notes.append)
    guard.setup()
    for number, (plan, state) in enumerate(zip(job.plans, ("done", "failed"), strict=True)):
        trial = SimpleNamespace(trial_id=f"tune_{number}", config={"trial": plan.id})
        result = {"state": state, loggers.ROW: {"accuracy": 0.5 + number, "latency_ms_p50": 8.0}}
        guard.on_trial_start(iteration=1, trials=[trial], trial=trial)
        guard.on_trial_result(iteration=1, trials=[trial], trial=trial, result=result)
        guard.on_trial_complete(iteration=1, trials=[trial], trial=trial)
    assert notes == []
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    found = {run.data.params["trial"]: run for run in runs}
    first, second = (found[plan.id] for plan in job.plans)
    assert (first.data.metrics["accuracy"], first.data.metrics["latency_ms_p50"]) == (0.5, 8.0)
    assert first.data.params["max_crops"] == "1" and job.plans[0].id in first.data.tags["mlflow.runName"]
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
