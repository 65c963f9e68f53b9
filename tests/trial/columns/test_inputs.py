"""Latency over inputs, through a whole trial: every sample has a prediction, timed ones near what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.jobs import QUICK, small_job
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.store.collector import TrialResult
from vlmprof.store.schema import STAGES
from vlmprof.trial.columns.inputs import inputs_columns
from vlmprof.trial.executor import Executor

TIMING = {**QUICK, "requests": 12, "repeats": 4, "max_repeats": 4}


def run(folder: Path, checkpoint: Path, **sections: Any) -> TrialResult:
    tasks = [{"name": "shapes_qa", "samples": 30, "seed": 3}]
    given = {"timing": TIMING, "knobs": {"max_crops": [9]}, **sections}
    done = Executor(BatchSizer(), gpus=0, name="test").run(
        small_job(folder, checkpoint, tasks=tasks, **given).plans[0], lambda progress: None
    )
    assert done.state == "done", done.row["error"]
    return done


def test_every_sample_has_a_prediction_and_the_row_their_percentiles(tmp_path: Path, tiny_checkpoint: Path) -> None:
    done = run(tmp_path, tiny_checkpoint)
    row: Any = done.row
    predicted = sorted(sample["latency_ms_predicted"] for sample in done.samples)  # type: ignore[type-var]
    for sample in done.samples:
        stages = [sample[f"{stage}_ms_predicted"] for stage in STAGES]
        assert sum(stages) == pytest.approx(sample["latency_ms_predicted"])  # type: ignore[arg-type]
        low, ms, high = (sample[f"latency_ms_predicted{end}"] for end in ("_low", "", "_high"))
        assert low <= ms <= high  # type: ignore[operator]
    assert row["latency_ms_inputs_p50"] in predicted and row["latency_ms_inputs_p90"] in predicted
    assert row["latency_ms_inputs_p50_low"] < row["latency_ms_inputs_p50"] <= row["latency_ms_inputs_p90"]
    assert row["latency_ms_inputs_p95"] is not None and row.get("latency_ms_inputs_p99") is None, "of 30 samples"
    # The requests are drawn evenly over the samples, so their mean is near that of all.
    assert sum(predicted) / 30 == pytest.approx(row["latency_ms_p50"], rel=0.3)
    assert 0 <= row["latency_model_error"] <= row["latency_model_half_width"]


@pytest.mark.parametrize(
    "sections",
    [
        {"timing": {**TIMING, "batch_size": 2}},
        {"timing": {**TIMING, "requests": 3}},
        {"measure": ["accuracy"]},
    ],
    ids=["batches", "too few requests", "not timed"],
)
def test_nothing_is_predicted_from_what_says_too_little(
    tmp_path: Path, tiny_checkpoint: Path, sections: dict[str, Any]
) -> None:
    done = run(tmp_path, tiny_checkpoint, **sections)
    assert not any(name.startswith(("latency_ms_inputs", "latency_model")) for name in done.row)
    assert not any("latency_ms_predicted" in sample for sample in done.samples)


def test_without_answers_there_is_a_model_and_no_percentile(tmp_path: Path, tiny_checkpoint: Path) -> None:
    row = run(tmp_path, tiny_checkpoint, measure=["latency"]).row
    assert row["latency_model_error"] is not None and "latency_ms_inputs_p50" not in row
    assert inputs_columns(None, []) == {}
