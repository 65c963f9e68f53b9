"""A mixture beside a dense model in one job: check, plan, run, resume, and one front and one figure of both."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import vlmprof as package
from tests.jobs import job_file
from tests.sweep.sweeps import starts
from vlmprof.cli import app

KNOBS = {"max_crops": [1, 4], "moe_top_k": [2, 8]}
NOTE = "(Molmo (Qwen2) is dense, it routes no experts): its trials run without it"


def vlmprof(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def job(folder: Path, dense: Path, **sections: object) -> Path:
    models = ["demo", {"family": "molmo", "checkpoint": str(dense)}]
    return job_file(folder, "", **{"models": models, "knobs": KNOBS, **sections})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, dense_checkpoint: Path) -> tuple[Path, Path, Result]:
    """The job, its results, and what the run said."""
    folder = tmp_path_factory.mktemp("several")
    path = job(folder, dense_checkpoint)
    return path, folder / "results", vlmprof("run", "--inline", str(path))


def test_every_command_says_what_does_not_apply(
    sweep: tuple[Path, Path, Result], dense_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, ran = sweep
    said = f"beware: moe_top_k does not apply to {dense_checkpoint.name} {NOTE}"
    assert said in vlmprof("check", str(path)).stdout
    monkeypatch.setenv("COLUMNS", "200")
    planned = vlmprof("plan", str(path)).stdout
    assert said in planned and "6 trials: 6 done, 0 to run" in planned
    rows = [line.split() for line in planned.splitlines() if dense_checkpoint.name in line and "shapes_qa" in line]
    assert [row[3:5] for row in rows] == [["1", "-"], ["4", "-"]]
    assert said in ran.stderr and "6 of 6 trials done" in ran.output


def test_rows_without_a_knob_are_null_and_say_why(sweep: tuple[Path, Path, Result]) -> None:
    trials = package.load(sweep[1]).trials
    dense, mixture = (trials[trials["family"] == name] for name in ("molmo", "demo"))
    assert (len(dense), len(mixture)) == (2, 4) and set(trials["state"]) == {"done"}
    assert dense[["knob_moe_top_k", "requested_moe_top_k", "achieved_moe_top_k"]].isna().all(axis=None)
    assert set(dense["effect_moe_top_k"]) == {"not applicable"}
    assert set(mixture["requested_moe_top_k"]) == {"2", "8"}
    assert set(mixture["effect_moe_top_k"]) == {"effective", "no-op"}
    assert set(dense["point"]) == {"max_crops=1", "max_crops=4"}


def test_nothing_runs_again_and_the_status_counts_all(sweep: tuple[Path, Path, Result]) -> None:
    path, folder, _ = sweep
    before = len(starts(folder))
    vlmprof("resume", "--inline", str(folder))
    vlmprof("run", "--inline", str(path))
    assert len(starts(folder)) == before == 6
    assert "6 of 6" in vlmprof("status", str(folder)).stdout


def test_only_the_trials_with_a_setting(sweep: tuple[Path, Path, Result]) -> None:
    path = str(sweep[0])
    assert "2 trials: 2 done" in vlmprof("plan", path, "--only", "moe_top_k=2").stdout
    assert "3 trials: 3 done" in vlmprof("plan", path, "--only", "max_crops=4").stdout
    for value in ("3", "None"):
        refused = vlmprof("plan", path, "--only", f"moe_top_k={value}", code=1).exception
        assert str(refused) == f"--only moe_top_k={value}: no trial has it; moe_top_k has 2 | 8"


def test_a_front_of_each_model_and_one_of_all(
    sweep: tuple[Path, Path, Result], dense_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder, both = str(sweep[1]), {"demo", dense_checkpoint.name}
    apart = vlmprof("pareto", folder).stdout
    assert len(re.findall(r"\d\s+of\s+\d\s+on\s+the\s+front", apart)) == 2 and "not applicable" not in apart
    together = vlmprof("pareto", folder, "--across-models").stdout
    assert len(re.findall(r"\d\s+of\s+6\s+on\s+the\s+front", together)) == 1
    assert all(name in together for name in both)
    assert " 8 " in together and " 8.0 " not in together, "a whole number stays one where other rows have none"
    written = pq.read_table(sweep[1] / "pareto-across-models.parquet").to_pandas()
    assert set(written["model"]) == both and written["group"].nunique() == 1
    results = package.load(folder)
    front = results.front(across_models=True, dominated=True)
    assert front["group"].nunique() == 1 and len(front) == 6
    pd.testing.assert_series_equal(front["on_front"], written["on_front"], check_dtype=False)
    assert results.front(dominated=True)["group"].nunique() == 2, "the default is a front for each model"
    assert results.front(by="model", across_models=True, dominated=True)["group"].nunique() == 2


def test_one_figure_of_all_models(sweep: tuple[Path, Path, Result], tmp_path: Path, dense_checkpoint: Path) -> None:
    vlmprof("plot", str(sweep[1]), "--across-models", "--to", str(tmp_path))
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert [name for name in drawn if name.startswith("pareto_front")] == ["pareto_front-across-models.svg"]
    assert len([name for name in drawn if name.startswith("knob_curve")]) == 2, "a knob's effect is one model's"
    vlmprof("plot", str(sweep[1]), "--to", str(tmp_path / "apart"))
    assert len(list((tmp_path / "apart").glob("pareto_front*.png"))) == 2
