"""Loggers get the row of the tables, by one path from inline runs and from Ray, and none of them can end a sweep."""

import json
import pickle
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.jobs import small_job
from tests.sweep.sweeps import Silent
from vlmprof.errors import UserError
from vlmprof.monitor.loggers import AbstractLogger, EndedTrial, LoggerOptions, Loggers, numbers
from vlmprof.monitor.mlflow import MlflowLogger
from vlmprof.monitor.tensorboard import TensorBoardLogger
from vlmprof.monitor.tune_callback import ROW, TuneCallback
from vlmprof.monitor.wandb import WandbLogger
from vlmprof.store import tables
from vlmprof.store.collector import Collector
from vlmprof.sweep.driver import launch
from vlmprof.sweep.inline import run_inline


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


class Raising(AbstractLogger):
    """Fails for every trial, and counts them."""

    def __init__(self):
        self.calls = 0

    def log(self, trial):
        self.calls += 1
        raise RuntimeError("no server today")


class Recording(AbstractLogger):
    """Keeps what it gets."""

    def __init__(self):
        self.trials, self.threads = {}, set()

    def log(self, trial):
        assert trial.plan.id not in self.trials, "a trial is logged once"
        self.trials[trial.plan.id] = trial
        self.threads.add(threading.current_thread())


def on_ray(job, display, request):
    cluster = request.getfixturevalue("cluster")
    launch(job.spec, job.plans, cluster, display, verbose=False, extras=LoggerOptions(tensorboard=True))


def inline(job, display, request):
    collector = Collector(job.spec.folder, "small", wait_s=1)
    collector.open_run([plan.id for plan in job.plans], {})
    loggers = Loggers.of(LoggerOptions(tensorboard=True), "small", job.spec.where, display.note)
    try:
        with loggers:
            run_inline(job.plans, 0, collector, display, gpus=0, folder=job.spec.where, loggers=loggers)
    finally:
        collector.close()


@pytest.mark.parametrize("run", [pytest.param(on_ray, marks=[pytest.mark.ray, pytest.mark.exhaustive]), inline])
def test_loggers_get_the_row_of_the_tables_and_one_that_raises_ends_nothing(
    run, tmp_path, tiny_checkpoint, monkeypatch, request
):
    raising, recording, make = Raising(), Recording(), Loggers.of

    def of(options, sweep, results, report):
        real = make(options, sweep, results, report)
        return Loggers([raising, *real._loggers, recording], report)

    monkeypatch.setattr(Loggers, "of", of)
    knobs = {"trouble": ["none", "raise"]}
    job, display = small_job(tmp_path, tiny_checkpoint, knobs=knobs, resources={"cpus": 2}), Silent()
    run(job, display, request)
    assert raising.calls == 2
    assert [note for note in display.notes if "Raising" in note] == [
        "Raising: RuntimeError: no server today; the sweep continues, and its tables are complete"
    ]
    rows = tables.read(job.spec.folder, "trials").to_dict("records")
    assert sorted(row["state"] for row in rows) == ["done", "failed"]
    for row in rows:
        logged = recording.trials.pop(row["trial"])
        expected = numbers({name: value for name, value in row.items() if not pd.isna(value)})
        assert logged.values == pytest.approx(expected), "what is logged is the row of the tables"
        assert (logged.state, logged.settings["trouble"]) == (row["state"], row["requested_trouble"])
        assert logged.name.startswith(row["trial"]) and logged.settings["trial"] == row["trial"]
        [folder] = (job.spec.folder / "tensorboard").glob(f"*-{row['trial']}")
        plotted = {tag.partition("/")[2]: value for tag, value in scalars(folder).items()}
        assert plotted == pytest.approx(expected, rel=1e-6)
    assert not recording.trials
    assert threading.main_thread() not in recording.threads


@pytest.fixture
def plans(tmp_path, tiny_checkpoint):
    return small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [1, 4], "moe_top_k": [4]}).plans


def test_waiting_returns_when_everything_is_written(plans):
    class Slow(AbstractLogger):
        written = 0

        def log(self, trial):
            time.sleep(0.2)
            self.written += 1

    slow = Slow()
    with Loggers([slow], print) as loggers:
        for plan in plans:
            loggers.log(EndedTrial(plan=plan, state="done", values={}))
        assert slow.written < len(plans), "logging holds nobody up"
        loggers.wait()
        assert slow.written == len(plans)
        loggers.log(EndedTrial(plan=plans[0], state="done", values={}))
    assert slow.written == len(plans) + 1, "leaving waits too"


def test_tune_s_callback_logs_trials_that_ended_and_deaths_and_no_shards(plans):
    recording, notes = Recording(), []
    done, died = plans
    with Loggers([recording], notes.append) as loggers:
        callback = TuneCallback(loggers, {plan.id: plan for plan in plans})
        for trial, result in (
            (f"{done.id}:1/2", {"state": "done"}),  # a shard
            (done.id, {"state": "done"}),  # another process had ended it
            (done.id, {"state": "done", ROW: {"accuracy": 0.5}}),
        ):
            tuned = SimpleNamespace(config={"trial": trial})
            callback.on_trial_result(iteration=1, trials=[tuned], trial=tuned, result=result)
        for trial in (died.id, f"{died.id}:1/2"):
            tuned = SimpleNamespace(config={"trial": trial})
            callback.on_trial_error(iteration=1, trials=[tuned], trial=tuned)
        pickle.dumps(callback)  # Tune does so
    assert recording.trials == {
        done.id: EndedTrial(plan=done, state="done", values={"accuracy": 0.5}),
        died.id: EndedTrial(plan=died, state="failed", values={}),
    }
    assert notes == []


def test_a_tensorboard_run_of_a_trial_that_runs_again_replaces_the_first(tmp_path, plans):
    plan, logger = plans[1], TensorBoardLogger(tmp_path)
    values = {"accuracy": 0.25, "latency_ms_p50": 8.0, "batch_size": 16.0, "seconds": 3.0}
    logger.log(EndedTrial(plan=plan, state="done", values=values))
    logger.log(EndedTrial(plan=plan, state="done", values={"accuracy": 0.5, "knob_x": 4.0, "peak_bytes": 1024.0}))
    logger.log(EndedTrial(plan=plan, state="failed", values={}))
    [run] = (tmp_path / "tensorboard").iterdir()
    assert run.name == f"max_crops=4_moe_top_k=4-{plan.id}"
    assert scalars(run) == {"trial/accuracy": 0.5, "knobs/knob_x": 4.0, "memory/peak_bytes": 1024.0}


def test_tensorboard_needs_a_folder():
    with pytest.raises(UserError, match="mounted file system"):
        Loggers.of(LoggerOptions(tensorboard=True), "small", "s3://bucket/results", print)


def test_only_finite_numbers_are_logged():
    row = {"a": 1, "b": float("nan"), "c": float("inf"), "d": "x", "e": None, "f": True, "g": 0.5}
    assert numbers(row) == {"a": 1.0, "f": 1.0, "g": 0.5}


def test_a_missing_package_is_reported_before_anything_runs(monkeypatch):
    monkeypatch.setattr("vlmprof.monitor.loggers.find_spec", lambda name: None)
    how = r"--mlflow and --wandb: not installed; 'pip install \"vlmprof\[mlflow,wandb\]\"'"
    with pytest.raises(UserError, match=how):
        LoggerOptions(mlflow="file:x", wandb="y").require()
    with pytest.raises(UserError, match="--tensorboard: not installed"):
        LoggerOptions(tensorboard=True).require()
    LoggerOptions().require()


VALUES = {"accuracy": 0.5, "latency_ms_p50": 8.0, "seconds": 90.0}


def log_both(logger, plans):
    for plan, state in zip(plans, ("done", "failed"), strict=True):
        logger.log(EndedTrial(plan=plan, state=state, values=VALUES))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_itself_keeps_the_numbers_under_the_trials_id(tmp_path, plans, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database needs more than its client
    uri = f"file:{tmp_path / 'mlruns'}"
    log_both(MlflowLogger(uri, "small"), plans)
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    by_trial = {run.data.params["trial"]: run for run in runs}
    first, second = (by_trial[plan.id] for plan in plans)
    assert first.data.metrics == VALUES
    assert first.data.params["max_crops"] == "1" and plans[0].id in first.data.tags["mlflow.runName"]
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
    assert first.info.end_time - first.info.start_time == 90_000


def chunks_of(log: bytes):
    """The records of wandb's file: LevelDB's log format in blocks of 32 KiB, after a header of 7 bytes."""
    at, data = 7, b""
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:  # too little for a header: padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", log, at + 4)
        data += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield data
            data = b""


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")  # wandb's own
def test_wandb_itself_keeps_the_numbers_under_the_trials_id(tmp_path, plans, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    log_both(WandbLogger("project", "small"), plans)
    wandb.teardown()  # as at the end of the process: its service writes what it still holds
    for plan, exit_code in zip(plans, (0, 1), strict=True):
        [file] = tmp_path.glob(f"wandb/offline-run-*-{plan.id}/run-{plan.id}.wandb")
        records = [Record.FromString(data) for data in chunks_of(file.read_bytes())]
        [history] = [record.history for record in records if record.HasField("history")]
        logged = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
        assert {name: logged[name] for name in VALUES} == VALUES
        [run] = [record.run for record in records if record.HasField("run")]
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (run.project, run.run_group, config["trial"]) == ("project", "small", plan.id)
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [exit_code]
