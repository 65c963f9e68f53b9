"""The command line as a user meets it, foolish things included. Inline, so that no cluster is needed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.builders import trial_row, write_results
from tests.jobs import job_file
from tests.sweep.sweeps import command_line, starts, vlmprof
from vlmprof import __version__
from vlmprof.store.collector import Collector, TrialResult


def test_help_imports_nothing_that_is_slow_to_import() -> None:
    heavy = {"ray", "torch", "transformers", "pandas", "pyarrow", "numpy", "scipy"}
    code = f"import sys, vlmprof.cli; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_version(tmp_path: Path) -> None:
    assert vlmprof("--version", cwd=tmp_path).stdout.strip() == f"vlmprof {__version__}"


def test_a_typo_is_one_message_with_every_fault_and_no_trace(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, knobs={"max_cropz": [1]}, strategi="grid")
    for command in ("check", "plan", "run"):
        done = vlmprof(command, str(path), cwd=tmp_path)
        assert done.returncode == 2
        assert "did you mean 'max_crops'?" in done.stderr
        assert "did you mean 'strategy'?" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_check_reports_every_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    good = job_file(tmp_path, tiny_checkpoint)
    (tmp_path / "bad.yaml").write_text("name: x\n")
    (tmp_path / "worse.yaml").write_text("[")
    done = vlmprof("check", str(good), "bad.yaml", "worse.yaml", "gone.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "ok, 4 trials" in done.stdout
    assert all(name in done.stderr for name in ("bad.yaml", "worse.yaml", "gone.yaml"))


def test_from_nothing_to_a_front_and_nothing_to_do_the_second_time(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path, folder = job_file(tmp_path, tiny_checkpoint), tmp_path / "results"
    assert "0 done, 4 to run" in vlmprof("plan", str(path), cwd=tmp_path).stdout
    first = vlmprof("run", "--inline", str(path), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "on the front" in first.stdout and "vlmprof plot" in first.stdout
    assert "4 done, 0 to run" in vlmprof("plan", str(path), cwd=tmp_path).stdout
    second = vlmprof("run", "--inline", str(path), cwd=tmp_path)
    assert second.returncode == 0
    assert len(starts(folder)) == 4
    assert "4 of 4" in vlmprof("status", str(folder), cwd=tmp_path).stdout
    assert (folder / "pareto.parquet").is_file()


def test_status_gives_the_reason_of_a_failure_word_for_word(tmp_path: Path) -> None:
    reason = "RuntimeError: [enforce fail at alloc_cpu.cpp] no"
    row = trial_row({"max_crops": 4}, state="failed", error=reason)
    collector = Collector(tmp_path / "results", "mine", wait_s=1)
    collector.finish(TrialResult(trial=row["trial"], knobs=("max_crops",), state="failed", row=row))
    collector.close()
    assert reason in vlmprof("status", "results", cwd=tmp_path).stdout


def test_reading_a_folder_that_holds_no_sweep(tmp_path: Path) -> None:
    for command in ("pareto", "plot", "status"):
        done = vlmprof(command, str(tmp_path), cwd=tmp_path)
        assert done.returncode == 2
        assert "holds no sweep" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unknown_objective_names_those_there_are(tmp_path: Path) -> None:
    write_results(tmp_path / "results", [trial_row({"max_crops": 1}, latency_ms_p50=None)])
    done = vlmprof("pareto", "results", "--objectives", "acuracy", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'accuracy'?" in done.stderr
    done = vlmprof("pareto", "results", "--objectives", "accuracy,latency_ms_p50", cwd=tmp_path)
    assert done.returncode == 2
    assert "no front can be drawn of 1 finished trial: 1 without latency_ms_p50" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_an_interrupt_says_how_to_go_on(tmp_path: Path, tiny_checkpoint: Path, how: signal.Signals) -> None:
    path = job_file(tmp_path, tiny_checkpoint, knobs={"trouble": ["slow"], "max_crops": [1, 2, 3, 4]})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    driver = subprocess.Popen(command_line("run", "--inline", str(path)), cwd=tmp_path, text=True, **quiet)
    try:
        while not starts(tmp_path / "results") and driver.poll() is None:
            time.sleep(0.01)
        driver.send_signal(how)
        _, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == 130
    assert f"Resume: vlmprof run {path}" in said
    assert "Traceback" not in said


def test_a_folder_that_cannot_be_written_is_the_users_to_fix(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = job_file(tmp_path, tiny_checkpoint, storage=str(tmp_path / "file" / "results"))
    done = vlmprof("run", "--inline", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written to" in done.stderr


def test_list_names_what_there_is(tmp_path: Path) -> None:
    assert "moe_top_k" in vlmprof("list", "knobs", cwd=tmp_path).stdout
    done = vlmprof("list", "knob", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'knobs'?" in done.stderr
