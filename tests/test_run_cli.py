"""``vlmprof run`` and ``vlmprof resume`` as they are typed: what they leave, say and exit with. Inline, without Ray."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.jobs import job_file
from tests.sweep.sweeps import command_line, samples, starts, vlmprof, what_was_measured
from vlmprof.store.ledger import read, read_states

ONE = {"knobs": {"max_crops": [4]}, "measure": ["accuracy"], "batch": {"max": 2, "audit_samples": 0}}
SLOWLY = {**ONE, "knobs": {"trouble": ["slow"]}, "chunk": {"seconds": 0}}


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
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "calm").mkdir()
    calm = job_file(tmp_path / "calm", tiny_checkpoint, **SLOWLY)
    assert vlmprof("run", "--inline", str(calm), cwd=calm.parent).returncode == 0
    work = tmp_path / "work"
    work.mkdir()
    path = job_file(work, os.path.relpath(tiny_checkpoint, work), **SLOWLY, storage="results")
    driver = cut_off_in_the_middle(path, signal.SIGKILL)
    driver.communicate(timeout=60)
    chunks = events(work / "results").count("chunk")
    assert driver.returncode == -signal.SIGKILL and 2 <= chunks < 6, "killed too late to be in the middle"
    path.unlink()
    moved = tmp_path / "moved"
    (work / "results").rename(moved)
    done = vlmprof("resume", "--inline", "moved", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert events(moved).count("done") == 1 and not (work / "results").exists()
    row = what_was_measured(calm.parent / "results").drop(columns=["trial", "checkpoint"])
    pd.testing.assert_frame_equal(what_was_measured(moved).drop(columns=["trial", "checkpoint"]), row)
    ours, theirs = (samples(one).drop(columns="trial") for one in (moved, calm.parent / "results"))
    pd.testing.assert_frame_equal(ours, theirs)
    again = vlmprof("resume", "--inline", str(moved), cwd=tmp_path)
    assert again.returncode == 0 and len(starts(moved)) == 2, "nothing was left to do"


def test_a_hangup_is_an_interrupt_that_keeps_what_is_pending(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **SLOWLY)
    driver = cut_off_in_the_middle(path, signal.SIGHUP)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert f"Resume: vlmprof run {path}" in said and "Traceback" not in said


def test_resume_needs_a_sweep_with_its_job(tmp_path: Path) -> None:
    for text, reason in (("", "holds no sweep"), ('{"event": "sweep", "trials": []}\n', "holds no job.yaml")):
        if text:
            (tmp_path / "ledger.jsonl").write_text(text)
        done = vlmprof("resume", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr


def test_resume_checks_the_job_anew(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **ONE)
    assert vlmprof("run", "--inline", str(path), cwd=tmp_path).returncode == 0
    job = tmp_path / "results" / "job.yaml"
    assert job.read_text() == path.read_text()
    job.write_text(job.read_text().replace("max_crops", "max_cropz"))
    done = vlmprof("resume", "--inline", "results", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'max_crops'?" in done.stderr


def test_the_exit_code_speaks_of_the_job_and_not_of_this_run(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": ["oom"]}})
    for _ in range(2):
        done = vlmprof("run", "--inline", str(path), cwd=tmp_path)
        assert done.returncode == 0, "out of memory is an answer"
        assert "1 trial does not fit the device" in done.stderr
    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": ["raise"]}})
    done = vlmprof("run", "--inline", str(path), cwd=tmp_path)
    assert done.returncode == 3 and "1 trial did not finish" in done.stderr


@pytest.mark.parametrize("what", ["full", "gone"])
def test_storage_that_fails_in_the_middle_is_one_line_and_nothing_is_half_written(
    tmp_path: Path, tiny_checkpoint: Path, what: str
) -> None:
    path, folder = job_file(tmp_path, tiny_checkpoint, **SLOWLY), tmp_path / "results"
    driver = subprocess.Popen(
        ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command_line("run", "--inline", str(path))] if what == "full"
        else command_line("run", "--inline", str(path)),
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while what == "gone" and "chunk" not in events(folder) and driver.poll() is None:
        time.sleep(0.01)
    if what == "gone":
        folder.rename(tmp_path / "unmounted")
    _, said = driver.communicate(timeout=100)
    assert driver.returncode == 2, said
    assert "cannot be written to" in said and "Traceback" not in said
    if what == "gone":
        assert not folder.exists(), "half a sweep in a folder of its own"
        (tmp_path / "unmounted").rename(folder)
    assert not [*folder.rglob("*.partial")]
    done = vlmprof("resume", "--inline", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(read_states(folder).values()) == {"done"}
    assert samples(folder)["sample"].is_unique and len(samples(folder)) == 12
