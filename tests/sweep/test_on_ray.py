"""Real Ray: what the cluster gives equals what the loop gives; nothing runs twice; failures cost only themselves."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.builders import trial_row
from tests.jobs import job_file, small_job
from tests.sweep.sweeps import Silent, command_line, run, samples, starts, vlmprof, what_was_measured
from vlmprof.errors import StoreError, UserError
from vlmprof.store import schema, tables
from vlmprof.store.collector import Collector
from vlmprof.store.ledger import read, read_states
from vlmprof.sweep.cluster import connected

pytestmark = pytest.mark.ray
ONE_WORKER = {"cpus": 2}
"""Of the cluster's two CPUs: one process to start instead of two, where a test needs no more."""


def test_ray_and_the_loop_give_identical_samples(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str, undisturbed: Path
) -> None:
    job, display = small_job(tmp_path, tiny_checkpoint), Silent()
    assert set(run(job, cluster, display).values()) == {"done"}
    assert sum("no node of the cluster has a GPU" in note for note in display.notes) == 1
    pd.testing.assert_frame_equal(samples(job.spec.folder), samples(undisturbed))
    pd.testing.assert_frame_equal(what_was_measured(job.spec.folder), what_was_measured(undisturbed))
    assert display.last is not None and display.last.heartbeat is not None and not display.last.heartbeat.running
    assert display.last.status.counts["done"] == len(display.last.status.ended) == display.last.status.total == 4


@dataclass(frozen=True)
class Troubled:
    """A sweep in which something goes wrong in every way, and the same folder's next sweep, of a larger grid."""

    folder: Path
    states: dict[str, str]
    display: Silent
    rows: pd.DataFrame
    """The trials of the first, by trouble."""
    again: dict[str, str]
    """What ran in the second."""
    started_at_first: int


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, cluster: str) -> Troubled:
    folder, display = tmp_path_factory.mktemp("troubled"), Silent()
    knobs = {"trouble": ["none", "raise", "oom", "die"], "moe_top_k": [4]}
    job = small_job(folder, tiny_checkpoint, knobs=knobs, resources=ONE_WORKER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlmprof.sweep.retries.MAX_CRASHES", 2)
        states = run(job, cluster, display)
    rows = tables.read(job.spec.folder, "trials").set_index("requested_trouble")
    started = len(starts(job.spec.folder))
    larger = {"trouble": ["none", "raise", "oom"], "moe_top_k": [4, 1]}
    again = run(small_job(folder, tiny_checkpoint, knobs=larger, resources=ONE_WORKER), cluster)
    return Troubled(job.spec.folder, states, display, rows, again, started)


def test_a_configuration_that_raises_is_a_failed_row_and_the_rest_completes(troubled: Troubled) -> None:
    assert sorted(troubled.states.values()) == ["done", "failed", "failed", "oom"]
    assert troubled.rows.loc["raise", "error"] == "ValueError: the knob made the model raise"
    assert pd.isna(troubled.rows.loc["raise", "accuracy"])
    assert troubled.rows.loc["none", "state"] == "done"
    trial = troubled.rows.loc["raise", "trial"]
    failed = next(entry for entry in read(troubled.folder) if entry["event"] == "failed" and entry["trial"] == trial)
    assert "in hook" in failed["trace"]


def test_a_configuration_that_kills_its_process_is_quarantined(troubled: Troubled) -> None:
    assert "ended its process 2 times" in troubled.rows.loc["die", "error"]
    assert sum("its process died; trying again" in note for note in troubled.display.notes) == 1


def test_a_larger_grid_runs_only_the_difference(troubled: Troubled) -> None:
    """A trial that failed runs again; one that ran out of memory is an answer, as one that is done."""
    assert sorted(troubled.again.values()) == ["done", "failed", "failed", "oom"]
    assert set(troubled.again) & set(troubled.states) == {troubled.rows.loc["raise", "trial"]}
    assert len(starts(troubled.folder)) == troubled.started_at_first + 4
    assert len(tables.read(troubled.folder, "trials")) == 4 + 3


def test_both_workers_work_though_a_model_takes_longer_to_load_than_a_trial_to_run(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str
) -> None:
    knobs = {"max_crops": [1, 2, 4], "moe_top_k": [1, 2, 3, 4]}
    job = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"])
    run(job, cluster)
    shares = tables.read(job.spec.folder, "trials")["process"].value_counts()
    assert len(shares) == 2, f"one worker did it all: {shares.to_dict()}"
    assert shares.min() >= 2


def test_a_trial_that_fits_no_node_is_refused_at_once(tmp_path: Path, tiny_checkpoint: Path, cluster: str) -> None:
    job = small_job(tmp_path, tiny_checkpoint, resources={"cpus": 64})
    with pytest.raises(UserError, match="no node has what one trial needs"):
        run(job, cluster)


def test_a_second_sweep_on_a_folder_is_refused_by_name(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprof.sweep.actors.WRITER_WAIT_S", 0.2)
    monkeypatch.setattr("vlmprof.sweep.driver.WRITER_WAIT_S", 0.2)
    job = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [1]}, resources=ONE_WORKER)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(job.spec.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {holder.pid} on"):
        run(job, cluster)
    holder.communicate("go\n")
    Collector(job.spec.folder, "second", wait_s=1).close()  # as soon as the first is gone


_HOLD = """
import sys; from pathlib import Path; from vlmprof.store.collector import Collector
held = Collector(Path(sys.argv[1]), "first", wait_s=1); print("held", flush=True); sys.stdin.readline()
"""


@pytest.mark.exhaustive  # a killed driver and the same command again: by default in tests/faults and over the Jobs API
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_in_the_middle_and_rerun_gives_the_same_tables(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str, undisturbed: Path, how: signal.Signals
) -> None:
    path = job_file(tmp_path, tiny_checkpoint)
    folder = tmp_path / "results"
    driver = subprocess.Popen(
        command_line("run", str(path), "--address", cluster), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: "done" in read_states(folder).values(), driver)
    assert len(tables.read(folder, "trials")) >= 1, "the tables must be readable while the sweep runs"
    driver.send_signal(how)
    _, said = driver.communicate(timeout=60)
    finished = [trial for trial, state in read_states(folder).items() if state == "done"]
    assert 1 <= len(finished) < 4, "ended too late to be in the middle"
    if how is signal.SIGINT:
        assert driver.returncode == 130
        assert f"Resume: vlmprof run {path}" in said.replace("\n", " ")
    again = vlmprof("run", str(path), "--address", cluster, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert all(starts(folder).count(trial) == 1 for trial in finished), "what was finished ran again"
    pd.testing.assert_frame_equal(samples(folder), samples(undisturbed))
    pd.testing.assert_frame_equal(what_was_measured(folder), what_was_measured(undisturbed))


def _wait_for(condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        time.sleep(0.1)
    raise AssertionError("nothing happened for two minutes")


@pytest.mark.exhaustive  # tests/cli/test_run.py has the same without Ray
def test_the_command_line_says_with_3_that_trials_failed(tmp_path: Path, tiny_checkpoint: Path, cluster: str) -> None:
    path = job_file(tmp_path, tiny_checkpoint, knobs={"trouble": ["none", "raise"]}, resources=ONE_WORKER)
    done = vlmprof("run", str(path), "--address", cluster, cwd=tmp_path)
    assert done.returncode == 3
    assert "1 trial did not finish" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_no_cluster_at_the_address_is_one_line(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint)
    done = vlmprof("run", str(path), "--address", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_collector_that_is_restarted_knows_what_had_settled(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    lines = [
        {"event": "sweep", "name": "x", "trials": ["a", "b"], "schema_version": 2},
        {"event": "done", "trial": "a"},
        {"event": "sweep", "name": "x", "trials": ["a", "b"], "schema_version": 2},
        {"event": "started", "trial": "b"},
        {"event": "failed", "trial": "b"},
    ]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = {**trial_row({"max_crops": 1}), "trial": "a", "samples": 0}
    tables.write(folder, "trials", "a", [row], schema.trials_schema(("max_crops",)))
    collector = Collector(folder, "x", wait_s=1)
    assert collector.settled() == {"b": "failed"}
    assert collector.open_run(["a", "b"], {}) == {"a"}
    assert collector.settled() == {}
    collector.close()


# Ray's own processes look for a driver that was killed once a minute.
@pytest.mark.parametrize("end", ["let go", pytest.param("killed", marks=pytest.mark.exhaustive)])
def test_no_ray_process_of_a_private_cluster_listens_beyond_loopback_or_outlives_its_driver(
    tmp_path: Path, end: str
) -> None:
    """The cluster that ``vlmprof run`` starts, without what the tests' own environment says about Ray."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    (tmp_path / "token").write_text(secrets.token_hex(32))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    driver = subprocess.Popen([sys.executable, "-c", _UP], env={**plain, **token}, text=True, **pipes)
    assert driver.stdout is not None
    said = driver.stdout.readline()
    assert said == "up token\n", said + driver.communicate()[1]
    family = _descendants(driver.pid)
    assert any("raylet" in name for name in family.values())
    listening = _listening(set(family))
    if end == "killed":
        driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert len(listening) > 5
    assert not [ip for ip in listening if not ip.startswith(("127.", "::1", "::ffff:127."))]
    for _ in range(900):
        alive = [name for pid, name in family.items() if _alive(pid)]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there 90 s after the driver was killed: {alive}")


_UP = """
import os, sys; from vlmprof.sweep.cluster import LOCAL, connected
with connected(LOCAL, verbose=False):
    import ray
    ray.get(ray.remote(lambda: 1).remote())  # a worker listens too
    print("up", os.environ["RAY_AUTH_MODE"], flush=True); sys.stdin.readline()
"""


def _descendants(root: int) -> dict[int, str]:
    import psutil

    return {child.pid: child.name() for child in psutil.Process(root).children(recursive=True)}


def _listening(pids: set[int]) -> list[str]:
    import psutil

    connections = psutil.net_connections(kind="tcp")
    return [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN and c.pid in pids]


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_who_asked_to_hear_sigterm_hears_it_though_ray_is_connected(cluster: str) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with connected(cluster, verbose=False):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_this_process_is_no_ray_driver_any_more(cluster: str) -> None:
    """Every launch lets go of the cluster; a leak would make later tests share a namespace."""
    import ray

    assert not ray.is_initialized()
    assert os.environ["RAY_AUTH_MODE"] == "token"
