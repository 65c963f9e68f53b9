"""``vlmprof run`` and ``vlmprof resume`` as they are typed: what they leave, say and exit with. Inline, without Ray."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.jobs import job_file
from tests.sweep.sweeps import command_line, samples, starts, what_was_measured
from vlmprof import api
from vlmprof.cli import app, run
from vlmprof.errors import SpecError, StoreError, UserError
from vlmprof.store.ledger import read, read_states

ONE = {"knobs": {"max_crops": [4]}, "measure": ["accuracy"], "batch": {"max": 2, "audit_samples": 0}}
SLOWLY = {**ONE, "knobs": {"trouble": ["slow"]}, "chunk": {"seconds": 0}}


def vlmprof(*arguments: str, code: int = 0) -> Result:
    """The command in this process: its imports are paid for."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in read(folder)] if (folder / "ledger.jsonl").is_file() else []


def cut_off_in_the_middle(path: Path, how: signal.Signals) -> subprocess.Popen[str]:
    """A run that is ended once it has kept two chunks of a score pass of six."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    driver = subprocess.Popen(command_line("run", "--inline", str(path)), cwd=path.parent, text=True, **quiet)
    while events(path.parent / "results").count("chunk") < 2 and driver.poll() is None:
        time.sleep(0.01)
    driver.send_signal(how)
    return driver


def test_killed_in_the_middle_of_a_score_pass_and_resumed_from_the_folder_alone(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calm").mkdir()
    vlmprof("run", "--inline", str(job_file(tmp_path / "calm", tiny_checkpoint, **SLOWLY)))
    calm = tmp_path / "calm" / "results"
    work = tmp_path / "work"
    work.mkdir()
    path = job_file(work, os.path.relpath(tiny_checkpoint, work), **{**SLOWLY, "storage": "results"})
    driver = cut_off_in_the_middle(path, signal.SIGKILL)
    driver.communicate(timeout=60)
    chunks = events(work / "results").count("chunk")
    assert driver.returncode == -signal.SIGKILL and 2 <= chunks < 6, "killed too late to be in the middle"
    path.unlink()
    moved = tmp_path / "moved"
    (work / "results").rename(moved)
    monkeypatch.chdir(tmp_path)
    vlmprof("resume", "--inline", "moved")
    assert events(moved).count("done") == 1 and not (work / "results").exists()
    assert Path.cwd() == tmp_path, "relative paths were meant from another folder only while it ran"
    which = ["trial", "checkpoint"]  # a relative path is another checkpoint's name
    pd.testing.assert_frame_equal(
        what_was_measured(moved).drop(columns=which), what_was_measured(calm).drop(columns=which)
    )
    pd.testing.assert_frame_equal(samples(moved).drop(columns="trial"), samples(calm).drop(columns="trial"))
    vlmprof("resume", "--inline", str(moved))
    assert len(starts(moved)) == 2, "nothing was left to do"


@pytest.mark.exhaustive
def test_a_hangup_is_an_interrupt(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **SLOWLY)
    driver = cut_off_in_the_middle(path, signal.SIGHUP)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert f"Resume: vlmprof run {path}" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("line", "reason"), [("", "holds no sweep"), ('{"event": "sweep", "trials": []}\n', "holds no job.yaml")]
)
def test_resume_needs_a_sweep_with_its_job(tmp_path: Path, line: str, reason: str) -> None:
    if line:
        (tmp_path / "ledger.jsonl").write_text(line)
    done = vlmprof("resume", str(tmp_path), code=1)
    assert isinstance(done.exception, StoreError) and reason in str(done.exception)


def test_resume_checks_the_job_anew(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **ONE)
    vlmprof("run", "--inline", str(path))
    job = tmp_path / "results" / "job.yaml"
    assert job.read_text() == path.read_text()
    job.write_text(job.read_text().replace("max_crops", "max_cropz"))
    done = vlmprof("resume", "--inline", str(tmp_path / "results"), code=1)
    assert isinstance(done.exception, SpecError) and "did you mean 'max_crops'?" in str(done.exception)
    assert done.exception.source == str(job)


def test_the_exit_code_speaks_of_the_job_and_not_of_this_run(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": ["oom"]}})
    for _ in range(2):
        assert "1 trial does not fit the device" in vlmprof("run", "--inline", str(path)).stderr
    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": ["raise"]}})
    assert "1 trial did not finish" in vlmprof("run", "--inline", str(path), code=3).stderr


def test_older_trials_that_lack_an_objective_keep_a_front_of_their_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    vlmprof("run", "--inline", str(job_file(tmp_path, tiny_checkpoint, **ONE)))
    both = {**ONE, "knobs": {"max_crops": [1]}, "measure": ["accuracy", "latency"]}
    done = vlmprof("run", "--inline", str(job_file(tmp_path, tiny_checkpoint, **both)))
    assert done.stdout.count("1 of 1 on the front") == 2 and "Tables: " in done.stdout
    assert "timing_requests=1: " in done.stdout and "timing_requests=none: " in done.stdout
    assert "no front" not in done.stderr


def test_a_front_that_cannot_be_drawn_does_not_cost_the_exit_code(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("no front can be drawn of 1 finished trial: 1 without accuracy")

    monkeypatch.setattr("vlmprof.report.pareto_table.read_front", refuse)
    done = vlmprof("run", "--inline", str(job_file(tmp_path, tiny_checkpoint, **ONE)))
    assert done.stderr.count("no front") == 1 and "Tables: " in done.stdout


@pytest.mark.exhaustive  # tests/store/test_attempts.py has the same without processes
@pytest.mark.parametrize("what", ["full", "gone"])
def test_storage_that_fails_in_the_middle_is_one_line_and_nothing_is_half_written(
    tmp_path: Path, tiny_checkpoint: Path, what: str
) -> None:
    path, folder = job_file(tmp_path, tiny_checkpoint, **SLOWLY), tmp_path / "results"
    command = command_line("run", "--inline", str(path))
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command]  # no file beyond 8 KiB: as a disk that is full
    driver = subprocess.Popen(
        limited if what == "full" else command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while what == "gone" and "chunk" not in events(folder) and driver.poll() is None:
        time.sleep(0.01)
    if what == "gone":
        folder.rename(tmp_path / "unmounted")
    _, said = driver.communicate(timeout=100)
    assert driver.returncode == 2, said
    assert "Traceback" not in said and str(folder) in said
    if what == "gone":
        assert not folder.exists(), "half a sweep in a folder of its own"
        (tmp_path / "unmounted").rename(folder)
    assert not [*folder.rglob("*.partial")]
    vlmprof("resume", "--inline", str(folder))
    assert set(read_states(folder).values()) == {"done"}
    assert samples(folder)["sample"].is_unique and len(samples(folder)) == 12


def test_check_and_plan_say_what_is_timed_at_several_settings(tmp_path: Path, tiny_checkpoint: Path) -> None:
    timing = {"batch_size": [1, 4], "output_tokens": [2, 8], "max_seconds": 20}
    path = str(job_file(tmp_path, tiny_checkpoint, timing=timing))
    for command in ("check", "plan"):
        told = vlmprof(command, path).output
        assert "timed at 4 settings, batch size 1, 4 and output tokens 2, 8: about " in told
        assert "times the timed work of the first alone; at most 4 x 20 s of repeats a trial" in told
    assert "settings" not in vlmprof("check", str(job_file(tmp_path, tiny_checkpoint))).output
    silent = job_file(tmp_path, tiny_checkpoint, timing=timing, measure=["accuracy"])
    assert "settings" not in vlmprof("check", str(silent)).output


def test_of_a_plan_of_very_many_trials_the_ends_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MANY", 10)
    monkeypatch.setattr(run, "ENDS", 2)
    path = tmp_path / "job.yaml"
    knobs = "{max_crops: [1, 4, 9], moe_top_k: [1, 2, 4, 8]}"
    path.write_text(
        f"name: many\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {knobs}\nstorage: {tmp_path / 'results'}\n"
    )
    told = vlmprof("plan", str(path)).output
    listed = [line.split()[0] for line in told.splitlines() if line.endswith("missing") or "missing" in line]
    trials = api.list_trials(path)["trial"].tolist()
    assert listed == [*trials[:2], *trials[-2:]]
    assert "8 trials between are not shown" in told and "12 trials: 0 done, 12 to run" in told
