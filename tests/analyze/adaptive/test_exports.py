"""Exports: rows of samples as Parquet and JSON, and a benchmark that a reader of its own can load."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_results
from vlmprof.analyze.adaptive.sample_export import sample_rows, write_json, write_rows
from vlmprof.analyze.adaptive.tabular_benchmark import write_benchmark
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.store import schema, tables

STAGES = {"vision": 5.0, "connector": 1.0, "prefill": 20.0, "decode": 30.0}
QUESTIONS = 40


def sweep(folder, *, predicted=True, tasks=("vqa_v2",), skip=(), extra=(), **columns):
    rows = []
    for task, crops, experts in itertools.product(tasks, (1, 2), (2, 8)):
        if (crops, experts) in skip:
            continue
        trial = f"{task}{crops}{experts}"
        scores = [float(k % (crops + 1) == 0) for k in range(QUESTIONS)]
        given = {"accuracy": float(np.mean(scores)), "latency_ms_p50": 10.0 * crops, "seconds": 80.0, "task": task}
        given |= {f"{stage}_ms_p50": ms for stage, ms in STAGES.items()}
        given |= {"experts_per_token": float(experts), "blocks_executed": 16, "timing_output_tokens": 16}
        rows.append(trial_row({"max_crops": crops, "moe_top_k": experts}, trial=trial, **{**given, **columns}))
        tables.write(
            folder,
            "samples",
            trial,
            [_answer(trial, k, scores[k], crops, predicted) for k in range(QUESTIONS)],
            schema.SAMPLES,
        )
    return write_results(folder, [*rows, *extra])


def _answer(trial, k, score, crops, predicted):
    row = {
        "trial": trial,
        "sample": f"q{k}",
        "cluster": f"p{k // 2}",
        "score": score,
        "prediction": "a\x1b[31m",
        "end": "eos",
    }
    row |= {
        "tokens_generated": 3,
        "crops": 1 + crops,
        "tiling_rows": 1,
        "tiling_cols": crops,
        "vision_tokens": 144 * crops,
    }
    row |= {
        "prompt_tokens": 144 * crops + 20,
        "question": f"what is {k}?",
        "references": ["b", "c"],
        "picture": f"p{k}.jpg",
    }
    row |= {"picture_width": 640, "picture_height": 480, "question_type": "what"}
    if predicted:
        row |= {"latency_ms_predicted": 100.0 + k, **{f"{stage}_ms_predicted": ms + k for stage, ms in STAGES.items()}}
    return row


def test_rows_have_everything_a_controller_needs(tmp_path):
    said = write_rows(sweep(tmp_path), tmp_path / "out" / "rows.parquet")
    rows = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    assert said == () and len(rows) == 4 * QUESTIONS
    (row,) = rows[(rows["trial"] == "vqa_v222") & (rows["sample"] == "q3")].to_dict("records")
    assert row["requested_moe_top_k"] == "2" and row["knob_max_crops"] == 2 and row["task"] == "vqa_v2"
    assert row["latency_ms_predicted"] == 103 and row["prefill_ms_predicted"] == 23
    assert row["measured_prefill_ms_p50"] == 20 and row["measured_latency_ms_p50"] == 20
    assert row["picture_width"] == 640 and row["question"] == "what is 3?" and list(row["references"]) == ["b", "c"]
    assert not rows[["group", "trial", "sample"]].duplicated().any()


def test_what_has_not_finished_is_counted(tmp_path):
    failed = trial_row({"max_crops": 9}, state="failed", error="x", trial="f")
    blank = trial_row({"max_crops": 7}, trial="blank")
    _, said = sample_rows(sweep(tmp_path, extra=[failed, blank]))
    assert said == ("left out: 1 failed", "1 finished trials have no samples, such as blank")


def test_json_has_the_fields_of_the_scripts_before(tmp_path):
    paths, _ = write_json(sweep(tmp_path), tmp_path / "json")
    names = sorted(path.name for path in paths)
    assert names[0] == "vqa_v2_imgsizetier-1_crops2_topk2_blocks16.json" and len(set(names)) == 4
    found = json.loads((tmp_path / "json" / names[0]).read_text())
    assert (found["tier"], found["top_k"], found["num_active_blocks"], found["num_samples"]) == ("1", 2, 16, QUESTIONS)
    assert found["accuracy"] == 0.5 and found["accuracy_std"] == 0.5
    assert found["selected_crops_distribution"] == {"2": QUESTIONS}
    assert found["latency_stats"]["T_vision_total_p50"] == 6 + 2 * 19.5
    sample = found["per_sample_results"][0]
    assert sample["sample_id"] == "q0" and sample["T_vision_total"] == 6 and sample["T_LLM_prefill"] == 20
    assert sample["T_decode_per_token"] == 2 and sample["T_total"] == 100  # 30 ms of 15 steps
    assert sample["actual_image_size"] == [640, 480] and sample["actual_tiling"] == [1, 1]
    assert sample["actual_text_tokens"] == 20 and sample["content_tokens"] == 2 and sample["ends_with_eos"]
    assert sample["metadata"]["answers"] == ["b", "c"] and sample["pred"] == "a\x1b[31m"


def test_medians_of_the_trial_say_that_they_are(tmp_path):
    paths, _ = write_json(sweep(tmp_path, predicted=False), tmp_path / "json")
    found = json.loads(paths[0].read_text())
    assert found["latency_of_samples"] == "median of the trial"
    assert found["latency_stats"]["T_LLM_prefill_p50"] == 20
    assert found["latency_stats"]["T_LLM_prefill_p95"] is None and found["latency_stats"]["T_total_std"] is None


def test_names_of_files_do_not_leave_the_folder_or_meet(tmp_path):
    paths, _ = write_json(sweep(tmp_path, task="../../x", experts_per_token=8.0), tmp_path / "json")
    assert {path.parent for path in paths} == {tmp_path / "json"} and len(set(paths)) == 4
    assert sum("_trial-" in path.name for path in paths) == 2


class Benchmark:
    """A reader of the layout, written from its description: asks a task for a configuration at a fidelity."""

    def __init__(self, folder):
        self.space, self.fidelity = (
            json.loads((folder / f"{name}space.json").read_text()) for name in ("config", "fidelity")
        )
        self.metadata = json.loads((folder / "metadata.json").read_text())
        self.rows = pd.read_parquet(folder / "hyperparameters.parquet")
        self.cells, self.fidelities = (
            np.load(folder / f"{name}.npy") for name in ("objectives_evaluations", "fidelities_values")
        )
        tasks, objectives = self.metadata["task_names"], self.metadata["objectives_names"]
        assert self.cells.shape == (len(tasks), len(self.rows), 1, len(self.fidelities), len(objectives))
        assert self.cells.dtype == np.float32 and list(self.rows) == list(self.space)
        assert not self.rows.duplicated().any()
        (domain,) = self.fidelity.values()
        assert self.fidelities.max() <= domain["domain_kwargs"]["upper"]
        for name, one in self.space.items():
            assert one["domain_cls"] == "Categorical"
            assert set(self.rows[name]) == set(one["domain_kwargs"]["categories"])

    def ask(self, task, samples, **configuration):
        matches = np.logical_and.reduce([self.rows[name] == value for name, value in configuration.items()])
        (row,) = np.flatnonzero(matches)
        at = self.metadata["task_names"].index(task), row, 0, self.fidelities.tolist().index(samples)
        return dict(zip(self.metadata["objectives_names"], self.cells[at].tolist(), strict=True))


def test_the_benchmark_says_what_the_sweep_measured(tmp_path):
    folder = sweep(tmp_path, tasks=("vqa_v2", "gqa"))
    _, said = write_benchmark(folder, tmp_path / "bench")
    found = Benchmark(tmp_path / "bench")
    assert said == () and len(found.metadata["task_names"]) == 2 and found.fidelities.tolist() == [5, 10, 20, 40]
    (task,) = [name for name in found.metadata["task_names"] if "gqa" in name]
    whole = found.ask(task, 40, max_crops=1, moe_top_k=8)
    assert whole == pytest.approx({"metric_error": 0.5, "metric_latency_ms": 10, "metric_elapsed_time": 80})
    part = found.ask(task, 10, max_crops=2, moe_top_k=8)
    assert part["metric_elapsed_time"] == 20 and 0 <= part["metric_error"] <= 1


def test_groups_with_unlike_grids_are_named(tmp_path):
    folder = sweep(tmp_path, tasks=("vqa_v2", "gqa"))
    more = [trial_row({"max_crops": 3, "moe_top_k": k}, trial=f"m{k}", task="gqa", seconds=1.0) for k in (2, 8)]
    for row in more:
        tables.write(
            folder,
            "samples",
            row["trial"],
            [_answer(row["trial"], k, 1.0, 3, True) for k in range(QUESTIONS)],
            schema.SAMPLES,
        )
    write_results(folder, more)
    with pytest.raises(UserError, match="unlike grids"):
        write_benchmark(folder, tmp_path / "bench")
    assert len(write_benchmark(folder, tmp_path / "bench", by="gqa")[0]) == 6


def test_an_incomplete_grid_is_no_benchmark(tmp_path):
    with pytest.raises(UserError, match="no such grid"):
        write_benchmark(sweep(tmp_path, skip=[(1, 2)]), tmp_path / "bench")
    with pytest.raises(UserError, match="has 'nowhere' in its name"):
        write_benchmark(sweep(tmp_path / "whole"), tmp_path / "bench", by="nowhere")


def test_nothing_to_write_and_nowhere_to_write(tmp_path):
    with pytest.raises(UserError, match="no finished trial has answers"):
        sample_rows(write_results(tmp_path / "blank", [trial_row({"max_crops": 1})]))
    with pytest.raises(StoreError):
        sample_rows(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    for write in (
        lambda folder: write_rows(folder, tmp_path / "file" / "r.parquet"),
        lambda folder: write_json(folder, tmp_path / "file" / "j"),
        lambda folder: write_benchmark(folder, tmp_path / "file" / "b"),
    ):
        with pytest.raises(UserError, match="cannot be written"):
            write(sweep(tmp_path / f"s{id(write)}"))


def test_from_the_command_line(tmp_path):
    folder, out = sweep(tmp_path / "sweep"), tmp_path / "out"
    options = [
        "--export",
        str(out / "r.parquet"),
        "--export-json",
        str(out / "json"),
        "--export-benchmark",
        str(out / "b"),
    ]
    done = CliRunner().invoke(app, ["oracle", str(folder), "--budget", "1", *options])
    assert done.exit_code == 0, done.output
    assert "4 files in" in done.output and "6 files in" in done.output and (out / "r.parquet").exists()
    refused = CliRunner().invoke(app, ["oracle", str(folder), "--export", str(out / "r.csv")])
    assert "ends in .parquet" in str(refused.exception)
