"""The command line as a user meets it, foolish things included. Inline, so that no cluster is needed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.builders import trial_row, write_results
from tests.jobs import job_file
from tests.sweep.sweeps import command_line, starts, vlmprof
from vlmprof import __version__
from vlmprof.cli import app
from vlmprof.errors import UserError
from vlmprof.store.collector import Collector, TrialResult


def here(*arguments: str) -> Result:
    """The command in this process, whose imports are paid for; raises what ``main`` would print."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_help_imports_nothing_that_is_slow_to_import() -> None:
    heavy = {"ray", "torch", "transformers", "pandas", "pyarrow", "numpy", "scipy"}
    code = f"import sys, vlmprof.cli; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_version(tmp_path: Path) -> None:
    as_module = [sys.executable, "-m", "vlmprof", "--version"]
    told = subprocess.run(as_module, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert told.strip() == f"vlmprof {__version__}"
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
    assert "0 done, 4 to run" in here("plan", str(path)).output
    first = vlmprof("run", "--inline", str(path), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert not re.search(r"\r|\x1b|\d%\|", first.stdout + first.stderr), "a progress bar in a pipe"
    assert "on the front" in first.stdout and "vlmprof plot" in first.stdout
    assert "4 done, 0 to run" in here("plan", str(path)).output
    assert here("run", "--inline", str(path)).exit_code == 0
    assert len(starts(folder)) == 4
    assert "4 of 4" in here("status", str(folder)).output
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
    assert driver.returncode == 130, said
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
    tasks = {line.split()[0]: line for line in here("list", "tasks").output.splitlines()[2:]}
    assert "cider" in tasks["coco_caption"] and "0 to 10" in tasks["coco_caption"] and " val " in tasks["coco_caption"]
    assert "one sentence per photo" in tasks["coco_caption"] and "held_out" in tasks["shapes_qa"]
    metrics = here("list", "metrics").output
    assert re.search(r"cider +0 to 10 +all answers +CIDEr-D", metrics)
    assert re.search(r"exact_match +0 to 1 +each answer +Exact match", metrics)
    done = vlmprof("list", "knob", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'knobs'?" in done.stderr


def test_only_limit_and_set_choose_trials_and_values(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = str(job_file(tmp_path, tiny_checkpoint, measure=["accuracy"]))
    planned = here("plan", path, "--only", "max_crops=4", "--only", "moe_top_k=1").output
    assert "1 trial: 0 done, 1 to run" in planned and "--limit 1" in planned
    with pytest.raises(UserError, match=r"no trial has it; max_crops has 1 \| 4"):
        here("plan", path, "--only", "max_crops=5")
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        here("plan", path, "--only", "max_crops")
    with pytest.raises(UserError, match=r"did you mean 'repeats'\?"):
        here("plan", path, "--set", "timing.repeatz=7")
    with pytest.raises(UserError, match=r"--set tasks\.1\.samples: tasks\.1 is no mapping, and no list with an entry"):
        here("plan", path, "--set", "tasks.1.samples=7")
    tokens = here("plan", path, "--set", "tasks.0.samples=1", "--set", "knobs.max_crops.1=9").output
    assert " 9 " in tokens and "4 trials" in tokens, "places in lists are named as faults name them"
    blocks = "knobs.active_blocks=[{keep: 2, policy: prefix}, [0, 1]]"
    for written in ("prefix 2", "0,1"):
        assert "4 trials" in here("plan", path, "--set", blocks, "--only", f"active_blocks={written}").output
    with pytest.raises(UserError, match=r"active_blocks has prefix 2 \| 0,1$"):
        here("plan", path, "--set", blocks, "--only", "active_blocks=prefix 3")
    assert "1 of 1 trials done" in here("run", path, "--inline", "--limit", "1", "--set", "batch.size=2").output
    again = here("plan", path, "--set", "batch.size=2").output
    assert "4 trials: 1 done, 3 to run" in again and "of trial time is left (from 1 trial" in again


def test_a_failure_says_why_where_it_happens_and_nothing_is_to_be_plotted(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    tasks = [{"name": "local", "path": str(tmp_path / "q.jsonl"), "metric": "exact_match"}]
    (tmp_path / "q.jsonl").write_text('{"image": "a.png", "question": "What?", "answers": ["x"]}\n')
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    path = str(job_file(tmp_path, tiny_checkpoint, knobs={"max_crops": [1]}, tasks=tasks))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    done = vlmprof("run", path, "--inline", cwd=tmp_path)
    lines = done.stdout.splitlines()
    failed = next(i for i, line in enumerate(lines) if line.lstrip().startswith("failed  "))
    assert ": " in lines[failed + 1], "the reason stands below"
    assert "Next:" not in done.stdout and done.returncode == 3


def test_tasks_of_one_name_are_told_apart(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"image": "a.png", "question": "What?", "answers": ["x"]}\n')
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    tasks = [{"name": "local", "path": str(tmp_path / f"{name}.jsonl"), "metric": "exact_match"} for name in "ab"]
    planned = vlmprof("plan", str(job_file(tmp_path, tiny_checkpoint, tasks=tasks)), cwd=tmp_path)
    assert "a.jsonl" in planned.stdout and "b.jsonl" in planned.stdout, planned.stderr


def test_other_objectives_do_not_overwrite_the_front(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r", [trial_row({"max_crops": 1}), trial_row({"max_crops": 4}, accuracy=0.6)])
    vlmprof("pareto", str(folder), cwd=tmp_path)
    before = (folder / "pareto.parquet").read_bytes()
    said = vlmprof("pareto", str(folder), "--objectives", "accuracy,peak_bytes", cwd=tmp_path)
    assert "pareto-accuracy-peak_bytes.parquet" in said.stdout.replace("\n", "")
    assert (folder / "pareto.parquet").read_bytes() == before
    assert (folder / "pareto-accuracy-peak_bytes.parquet").is_file()


def test_a_faulty_file_does_not_keep_later_ones_from_being_checked(tmp_path: Path, tiny_checkpoint: Path) -> None:
    good = job_file(tmp_path, tiny_checkpoint)
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
    done = vlmprof("check", "latin.yaml", "missing.yaml", str(good), cwd=tmp_path)
    assert done.returncode == 2 and f"{good}: ok" in done.stdout.replace("\n", "")
    assert "is not UTF-8" in done.stderr and "missing.yaml" in done.stderr and "Traceback" not in done.stderr


def test_a_temporary_path_that_is_too_long_for_ray_is_a_sentence(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, long = str(job_file(tmp_path, tiny_checkpoint)), tmp_path / ("x" * 80)
    long.mkdir()
    for name in [name for name in os.environ if name.startswith("RAY_")]:  # those of the suite's own cluster
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    done = vlmprof("run", path, cwd=tmp_path)
    assert done.returncode == 2 and "bytes where the kernel allows 107" in done.stderr
    assert "Traceback" not in done.stderr
