"""``vlmprof compare`` and ``power`` as they are typed: what they print, write and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.analyze.comparing.compared_runs import QUESTIONS, write_run, write_samples
from vlmprof.cli import compare as command
from vlmprof.cli.compare import ALARM, app
from vlmprof.errors import UserError


def typed(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def runs(tmp_path):
    first = write_run(tmp_path / "a", [0.5, 0.7], [50, 100], seed=1)
    return first, write_run(tmp_path / "b", [0.5, 0.6], [50, 100], seed=2, torch="2.11")


def test_two_runs(runs):
    found = typed("compare", *runs)
    assert found.exit_code == 0, found.output
    assert "2 pairs" in found.output and "-0.100 [-0.1" in found.output
    assert "What differs besides" in found.output and "torch" in found.output and "2.11" in found.output


def test_the_exit_code_is_the_alarm(runs):
    quiet = typed("compare", *runs, "--fail-if", "accuracy < -0.2 or latency_ms_p50 > +3%")
    assert quiet.exit_code == 0 and "no alarm" in quiet.output and "4 comparisons" in quiet.output
    loud = typed("compare", *runs, "--fail-if", "accuracy < -0.01")
    assert loud.exit_code == ALARM == 3
    assert "ALARM: accuracy < -0.01 is surely true of 1 of 2 pairs" in loud.output
    assert "max_crops=2 (t1): accuracy -0.1000, surely below" in loud.output


def test_two_configurations_and_a_file(runs, tmp_path):
    first, _ = runs
    file, rows = tmp_path / "new" / "moved.jsonl", tmp_path / "pairs.parquet"
    options = ("--samples", 3, "--to", file, "--table", rows)
    found = typed("compare", first, "--configurations", "full", "max_crops=1", *options)
    assert found.exit_code == 0, found.output
    assert "By question type" in found.output and "40 samples score lower in the second, 3 of them here" in found.output
    assert "yes | aye" in found.output and "McNemar's mid-p" in found.output
    assert "the full model's answer (t1) in 'max_crops=1': 0.800" in found.output
    moved = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(moved) == 40 and moved[0]["references"] == ["yes", "yes", "aye"]
    assert pd.read_parquet(rows)["accuracy_change"].tolist() == pytest.approx([-0.2])


def test_a_figure(runs, tmp_path):
    file = tmp_path / "figures" / "changes.svg"
    found = typed("compare", *runs, "--figure", file)
    assert found.exit_code == 0, found.output
    assert "<svg" in file.read_text()
    assert isinstance(typed("compare", *runs, "--figure", "changes.gif").exception, UserError)


def test_hostile_answers_are_only_text(runs):
    first, second = runs
    write_samples(second, "t1", [0.0] * QUESTIONS, ["[red]\x1b[2J\u202e" + "x" * 500] * QUESTIONS)
    found = typed("compare", first, second, "--configurations", "max_crops=2", "max_crops=2")
    assert found.exit_code == 0, found.output
    assert "\x1b[2J" not in found.output and "\u202e" not in found.output and "[red]" in found.output
    assert "x" * 100 not in found.output


def test_many_pairs_show_what_changed(tmp_path):
    of = [0.3 + 0.01 * i for i in range(41)]
    first = write_run(tmp_path / "a", of, [50] * 41)
    second = write_run(tmp_path / "b", [0.1, *of[1:]], [50] * 41, seed=1)
    assert "41 pairs, 1 with a change shown" in " ".join(typed("compare", first, second).output.split())


def test_calibration_of_folders(runs):
    found = typed("compare", "--calibrate", *runs, "--fail-if", "latency_ms_p50 > +3%")
    assert found.exit_code == 0 and "false alarms: 0 of 2 comparisons, 0.0 % [0.0," in found.output


def small_job(storage):
    task = "tasks: [{name: shapes_qa, samples: 4}]"
    return f"name: small\nmodels: [demo]\n{task}\nknobs: {{max_crops: [1]}}\nstorage: {storage}/small\n"


def test_calibration_of_a_job_runs_it_in_processes_of_their_own(tmp_path, monkeypatch):
    job = tmp_path / "job.yaml"
    job.write_text(small_job(tmp_path))
    commands = []

    def run(arguments, **options):
        commands.append(arguments)
        seed = len(commands)
        write_run(Path(arguments[-1].removeprefix("storage=")), [0.5], [50], seed=seed)
        return type("Ended", (), {"returncode": 0})()

    monkeypatch.setattr(command.subprocess, "run", run)
    found = typed("compare", "--calibrate", job, "--runs", 3, "--fail-if", "latency_ms_p50 > +3%")
    assert found.exit_code == 0, (found.output, found.exception)
    assert [one[-1] for one in commands] == [f"storage={tmp_path}/small-calibration-{i}" for i in (1, 2, 3)]
    assert "3 runs of one job" in found.output


def test_a_run_that_fails_ends_the_calibration(tmp_path, monkeypatch):
    job = tmp_path / "job.yaml"
    job.write_text(small_job(tmp_path))
    monkeypatch.setattr(command.subprocess, "run", lambda *a, **o: type("Ended", (), {"returncode": 3})())
    found = typed("compare", "--calibrate", job, "--fail-if", "latency_ms_p50 > +3%")
    assert isinstance(found.exception, UserError) and "ended with exit code 3" in str(found.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{b}", "{a}"], "expected one folder or two, got 3"),
        (["{a}"], "expected a second folder, or two configurations"),
        (["{a}", "{b}", "--to", "moved.csv"], "ends in .parquet or .jsonl"),
        (["{a}", "{b}", "--fail-if", "accuracy"], "--fail-if, character"),
        (["{a}", "--calibrate", "--fail-if", "accuracy < 0"], "expected two or more folders, or a job"),
        (["{a}", "{b}", "--to", "/dev/null/moved.jsonl"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(runs, arguments, said):
    found = typed("compare", *(one.format(a=runs[0], b=runs[1]) for one in arguments))
    assert isinstance(found.exception, UserError) and said in str(found.exception)


def test_power(runs):
    found = typed("power", runs[0], "--difference", 0.02)
    assert found.exit_code == 0, found.output
    assert "to tell a difference of 0.02" in found.output and "only with the full model" in found.output
